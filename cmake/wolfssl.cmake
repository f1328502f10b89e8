# wolfSSL, as a client needs it. Provides the target mooring_wolfssl, and for a static one
# MOORING_WOLFSSL_ARCHIVE, which the static library takes in.
#   MOORING_WOLFSSL=own       the build of tools/deps/build-wolfssl (default); where that cannot be had,
#                             `auto` says so and takes the system's
#   MOORING_WOLFSSL=system    the shared library of the distribution, as pkg-config knows it
#   MOORING_WOLFSSL_ROOT=dir  another installed wolfSSL: lib/libmrwolfssl.a, libwolfssl.a or .so
# What a library offers is probed, never assumed: see tls/library.c for what depends on it.

include(CheckCSourceCompiles)
set(MOORING_WOLFSSL "auto" CACHE STRING "auto, own or system")
set_property(CACHE MOORING_WOLFSSL PROPERTY STRINGS auto own system)
set(MOORING_WOLFSSL_ROOT "" CACHE PATH "An installed wolfSSL to use instead (empty: see MOORING_WOLFSSL)")

set(wolfssl_root "${MOORING_WOLFSSL_ROOT}")
set(wolfssl_kind "${MOORING_WOLFSSL}")
if(NOT wolfssl_root STREQUAL "")
  set(wolfssl_kind root)
elseif(NOT wolfssl_kind STREQUAL "system")
  execute_process(COMMAND "${PROJECT_SOURCE_DIR}/tools/deps/build-wolfssl" --prefix
                  OUTPUT_VARIABLE wolfssl_root OUTPUT_STRIP_TRAILING_WHITESPACE
                  COMMAND_ERROR_IS_FATAL ANY)
  if(EXISTS "${wolfssl_root}/lib/libmrwolfssl.a")
    set(wolfssl_kind own)
  elseif(wolfssl_kind STREQUAL "own")
    message(FATAL_ERROR "No wolfSSL in ${wolfssl_root}.\n"
      "Run tools/deps/build-wolfssl once (./run build does it for you), or choose another with "
      "-DMOORING_WOLFSSL=system or -DMOORING_WOLFSSL_ROOT=.")
  else()
    message(WARNING "No wolfSSL of our own build in ${wolfssl_root}: using the system's. Debian's is "
      "slower, needs 50-80 KB for each idle TLS connection and knows no early data. "
      "tools/deps/build-wolfssl makes ours.")
    set(wolfssl_kind system)
  endif()
endif()

add_library(mooring_wolfssl INTERFACE)
set(MOORING_WOLFSSL_ARCHIVE "")
set(MOORING_PC_WOLFSSL "") # what a static program has to link besides
if(wolfssl_kind STREQUAL "system")
  pkg_check_modules(WOLFSSL REQUIRED IMPORTED_TARGET wolfssl)
  target_link_libraries(mooring_wolfssl INTERFACE PkgConfig::WOLFSSL)
  target_compile_definitions(mooring_wolfssl INTERFACE MR_WOLFSSL_SHARED=1)
  set(CMAKE_REQUIRED_LIBRARIES PkgConfig::WOLFSSL)
  set(MOORING_PC_WOLFSSL "-lwolfssl")
  set(MOORING_WOLFSSL_TEXT "the system's, revision ${WOLFSSL_VERSION}")
else()
  find_library(wolfssl_file NAMES libmrwolfssl.a libwolfssl.a wolfssl REQUIRED NO_CACHE
               PATHS "${wolfssl_root}/lib" NO_DEFAULT_PATH)
  target_include_directories(mooring_wolfssl SYSTEM INTERFACE "${wolfssl_root}/include")
  target_link_libraries(mooring_wolfssl INTERFACE "${wolfssl_file}" m)
  set(CMAKE_REQUIRED_INCLUDES "${wolfssl_root}/include")
  set(CMAKE_REQUIRED_LIBRARIES "${wolfssl_file}" m)
  if(wolfssl_file MATCHES "\\.a$")
    set(MOORING_WOLFSSL_ARCHIVE "${wolfssl_file}")
  else()
    target_compile_definitions(mooring_wolfssl INTERFACE MR_WOLFSSL_SHARED=1)
    set(MOORING_PC_WOLFSSL "${wolfssl_file}")
  endif()
  if(wolfssl_kind STREQUAL "own")
    file(STRINGS "${wolfssl_root}/REVISION" revision)
    set(MOORING_WOLFSSL_TEXT "own build of ${revision}")
  else()
    set(MOORING_WOLFSSL_TEXT "of ${wolfssl_root}")
  endif()
endif()
message(STATUS "wolfSSL: ${MOORING_WOLFSSL_TEXT}")
# What was probed of another one says nothing of this.
set(wolfssl_probed "${MOORING_WOLFSSL_TEXT} ${CMAKE_REQUIRED_LIBRARIES}")
if(NOT "${wolfssl_probed}" STREQUAL "${MOORING_WOLFSSL_PROBED}")
  foreach(feature BASE EARLY_DATA STAPLING FP_ECC)
    unset(MR_WOLFSSL_${feature} CACHE)
  endforeach()
  set(MOORING_WOLFSSL_PROBED "${wolfssl_probed}" CACHE INTERNAL "")
endif()
target_compile_definitions(mooring_wolfssl INTERFACE
  MR_WOLFSSL_TEXT="${MOORING_WOLFSSL_TEXT}")

function(mooring_probe_wolfssl result code)
  set(CMAKE_REQUIRED_QUIET ON)
  check_c_source_compiles("#include <wolfssl/options.h>
    #include <wolfssl/ssl.h>
    #include <wolfssl/wolfcrypt/asn_public.h>
    #include <wolfssl/wolfcrypt/ecc.h>
    int main(void) { ${code}; return 0; }" ${result})
  if(${result})
    target_compile_definitions(mooring_wolfssl INTERFACE ${result}=1)
  endif()
endfunction()
mooring_probe_wolfssl(MR_WOLFSSL_BASE "return wolfSSL_Init()")
mooring_probe_wolfssl(MR_WOLFSSL_EARLY_DATA
  "int n; return wolfSSL_write_early_data(0, \"\", 0, &n)")
mooring_probe_wolfssl(MR_WOLFSSL_STAPLING
  "int f; return wolfSSL_UseOCSPStapling(0, WOLFSSL_CSR_OCSP, 0) + wolfSSL_get_ocsp_producedDate(0, 0, 0, &f)")
mooring_probe_wolfssl(MR_WOLFSSL_FP_ECC "wc_ecc_fp_free()")
unset(CMAKE_REQUIRED_INCLUDES)
unset(CMAKE_REQUIRED_LIBRARIES)
if(NOT MR_WOLFSSL_BASE)
  message(FATAL_ERROR "wolfSSL: no program against it can be built; CMakeFiles/CMakeError.log says why")
endif()
