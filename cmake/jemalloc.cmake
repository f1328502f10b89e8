# jemalloc with every name prefixed mrj_, built from Debian's source package by
# tools/deps/build-jemalloc. Provides the target mooring_jemalloc, and MOORING_JEMALLOC_ARCHIVE for
# the static library, which takes the whole archive in.

set(MOORING_JEMALLOC_ROOT "" CACHE PATH
    "Where tools/deps/build-jemalloc put its build (empty: ask it for its cache)")

set(jemalloc_root "${MOORING_JEMALLOC_ROOT}")
if(jemalloc_root STREQUAL "")
  execute_process(COMMAND "${PROJECT_SOURCE_DIR}/tools/deps/build-jemalloc" --prefix
                  OUTPUT_VARIABLE jemalloc_root OUTPUT_STRIP_TRAILING_WHITESPACE
                  COMMAND_ERROR_IS_FATAL ANY)
endif()
set(MOORING_JEMALLOC_ARCHIVE "${jemalloc_root}/lib/libmrjemalloc.a")
if(NOT EXISTS "${MOORING_JEMALLOC_ARCHIVE}")
  message(FATAL_ERROR
    "No prefixed jemalloc in ${jemalloc_root}.\n"
    "Run tools/deps/build-jemalloc once (./run build does it for you), or set "
    "MOORING_JEMALLOC_ROOT to a directory with lib/libmrjemalloc.a and include/jemalloc/.")
endif()

add_library(mooring_jemalloc STATIC IMPORTED)
set_target_properties(mooring_jemalloc PROPERTIES
  IMPORTED_LOCATION "${MOORING_JEMALLOC_ARCHIVE}"
  INTERFACE_INCLUDE_DIRECTORIES "${jemalloc_root}/include")
