# The library, compiled once and linked twice.
#   mooring_objects   the objects, with internal names visible: what unit tests link
#   mooring           libmooring.so: only moor_* is exported
#   mooring_static    libmooring.a: one object in which only moor_* is global
# Programs and examples link mooring::mooring, so they cannot reach past the public API.

# Every .c of a floor belongs to the library.
file(GLOB MOORING_SOURCES CONFIGURE_DEPENDS
     base/*.c alloc/*.c policy/*.c core/*.c h1/*.c h2/*.c tls/*.c client/*.c)
add_library(mooring_objects OBJECT ${MOORING_SOURCES})
target_compile_definitions(mooring_objects PUBLIC _GNU_SOURCE)
target_include_directories(mooring_objects PUBLIC include ${PROJECT_SOURCE_DIR})
set_target_properties(mooring_objects PROPERTIES POSITION_INDEPENDENT_CODE ON
                                                 C_VISIBILITY_PRESET hidden)
target_link_libraries(mooring_objects PUBLIC PkgConfig::LIBURING PkgConfig::CARES PkgConfig::NGHTTP2
                      mooring_jemalloc mooring_wolfssl Threads::Threads)
if(MR_NGHTTP2_CONTINUATIONS)
  target_compile_definitions(mooring_objects PUBLIC MR_NGHTTP2_CONTINUATIONS=1)
endif()
# A call between two exported functions is a plain call: nobody may interpose into the library.
target_compile_options(mooring_objects PRIVATE -fno-semantic-interposition)

set(MOORING_LINK_LIBRARIES PkgConfig::LIBURING PkgConfig::CARES PkgConfig::NGHTTP2 Threads::Threads)

add_library(mooring SHARED $<TARGET_OBJECTS:mooring_objects>)
add_library(mooring::mooring ALIAS mooring)
set_target_properties(mooring PROPERTIES
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR} LINKER_LANGUAGE C
  LINK_DEPENDS "${PROJECT_SOURCE_DIR}/cmake/mooring.map")
target_include_directories(mooring INTERFACE
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_link_libraries(mooring PRIVATE mooring_jemalloc mooring_wolfssl ${MOORING_LINK_LIBRARIES})
target_link_options(mooring PRIVATE
  "-Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/mooring.map" -Wl,-Bsymbolic-functions
  # jemalloc leaves a destructor in every thread that used it: unmapping it would crash the thread
  # that ends after dlclose.
  -Wl,-z,nodelete -Wl,-z,now
  # The archives inside show nothing, whatever the map says.
  -Wl,--exclude-libs,ALL)
if(NOT MOORING_SANITIZE)
  # Clang leaves a sanitizer's functions for the program to define.
  target_link_options(mooring PRIVATE -Wl,--no-undefined)
endif()

# ld -r takes in the members of jemalloc that are used; objcopy then makes local whatever is not
# ours to show. So the archive stands beside another jemalloc in one program, and clashes with
# nothing that program defines.
if(NOT MOORING_SANITIZE AND NOT MOORING_COVERAGE)
  find_program(MOORING_OBJCOPY NAMES objcopy REQUIRED)
  set(static_object "${CMAKE_CURRENT_BINARY_DIR}/libmooring.o")
  add_custom_command(
    OUTPUT "${static_object}"
    COMMAND ${CMAKE_LINKER} -r -o "${static_object}.all" "$<TARGET_OBJECTS:mooring_objects>"
            "${MOORING_JEMALLOC_ARCHIVE}" ${MOORING_WOLFSSL_ARCHIVE}
    COMMAND "${MOORING_OBJCOPY}" --wildcard "--keep-global-symbol=moor_*"
            "${static_object}.all" "${static_object}"
    COMMAND "${CMAKE_COMMAND}" -E rm "${static_object}.all"
    DEPENDS mooring_objects "$<TARGET_OBJECTS:mooring_objects>" "${MOORING_JEMALLOC_ARCHIVE}"
            ${MOORING_WOLFSSL_ARCHIVE}
    COMMAND_EXPAND_LISTS VERBATIM
    COMMENT "Joining the static library's objects into one")
  add_library(mooring_static STATIC "${static_object}")
  add_library(mooring::mooring_static ALIAS mooring_static)
  set_target_properties(mooring_static PROPERTIES LINKER_LANGUAGE C OUTPUT_NAME mooring)
  target_include_directories(mooring_static INTERFACE
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_link_libraries(mooring_static INTERFACE $<BUILD_INTERFACE:PkgConfig::LIBURING>
                        $<BUILD_INTERFACE:PkgConfig::CARES>
                        $<BUILD_INTERFACE:PkgConfig::NGHTTP2> Threads::Threads
                        m ${MOORING_PC_WOLFSSL})
endif()
