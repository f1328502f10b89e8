# How a driver becomes a library of its own. drivers/NAME/CMakeLists.txt holds one call:
#
#   mooring_add_driver(NAME
#       SOURCES a.c ...        in that folder; public headers only
#       PACKAGE libx[>=1.2]    the pkg-config name of the library it drives
#       [HIDDEN])              holders never call that library themselves (redis): it stays out of
#                              what programs compile and link with
#
# and makes of it, if pkg-config knows the package:
#   mooring_NAME_objects     the objects, for unit tests of what is internal
#   mooring::NAME            libmooring-NAME.so: only moor_* is exported. Brings mooring::mooring along
#   mooring::NAME_static     libmooring-NAME.a, which wants mooring::mooring_static
# Installed with them: include/mooring/NAME.h, mooring-NAME.pc and the component NAME of the CMake
# package. libmooring itself never links what a driver needs.
#
# Tests stand in tests/drivers/NAME: mooring_add_test(X PUBLIC SOURCES x.c LIBS mooring::NAME).

set(MOORING_DRIVERS "auto" CACHE STRING
    "Drivers to build, a list. auto: those whose library is installed; empty: none")

# What there is, built or not: each has a public header, which is installed with its driver only.
file(GLOB MOORING_DRIVERS_KNOWN CONFIGURE_DEPENDS RELATIVE "${PROJECT_SOURCE_DIR}/drivers"
     "${PROJECT_SOURCE_DIR}/drivers/*/CMakeLists.txt")
list(TRANSFORM MOORING_DRIVERS_KNOWN REPLACE "/CMakeLists.txt$" "")
set(MOORING_DRIVERS_BUILT "")

function(mooring_add_drivers)
  set(wanted "${MOORING_DRIVERS}")
  if(wanted STREQUAL "auto")
    set(wanted "${MOORING_DRIVERS_KNOWN}")
  endif()
  foreach(name IN LISTS wanted)
    if(NOT name IN_LIST MOORING_DRIVERS_KNOWN)
      message(FATAL_ERROR "MOORING_DRIVERS: there is no driver ${name}; known: ${MOORING_DRIVERS_KNOWN}")
    endif()
    add_subdirectory("${PROJECT_SOURCE_DIR}/drivers/${name}" "${PROJECT_BINARY_DIR}/drivers/${name}")
    if(TARGET mooring_${name})
      list(APPEND MOORING_DRIVERS_BUILT ${name})
    endif()
  endforeach()
  set(MOORING_DRIVERS_BUILT "${MOORING_DRIVERS_BUILT}" PARENT_SCOPE)
endfunction()

function(mooring_add_driver name)
  cmake_parse_arguments(PARSE_ARGV 1 d "HIDDEN" "PACKAGE" "SOURCES")
  if(d_UNPARSED_ARGUMENTS OR NOT d_SOURCES OR NOT d_PACKAGE)
    message(FATAL_ERROR "mooring_add_driver(${name}): SOURCES and PACKAGE, not ${d_UNPARSED_ARGUMENTS}")
  endif()
  string(TOUPPER "${name}" upper)
  pkg_check_modules(MOORING_${upper} QUIET IMPORTED_TARGET GLOBAL "${d_PACKAGE}")
  if(NOT MOORING_${upper}_FOUND)
    set(text "driver ${name}: not built, pkg-config does not know ${d_PACKAGE}")
    if(NOT MOORING_DRIVERS STREQUAL "auto")
      message(FATAL_ERROR "${text} (MOORING_DRIVERS names ${name})")
    endif()
    message(STATUS "${text}")
    return()
  endif()
  message(STATUS "driver ${name}: with ${d_PACKAGE}, version ${MOORING_${upper}_VERSION}")
  set(library PkgConfig::MOORING_${upper})

  set(objects mooring_${name}_objects)
  add_library(${objects} OBJECT ${d_SOURCES})
  target_compile_definitions(${objects} PUBLIC _GNU_SOURCE)
  target_include_directories(${objects} PUBLIC "${PROJECT_SOURCE_DIR}/include" "${PROJECT_SOURCE_DIR}")
  target_link_libraries(${objects} PUBLIC ${library} Threads::Threads)
  set_target_properties(${objects} PROPERTIES POSITION_INDEPENDENT_CODE ON C_VISIBILITY_PRESET hidden)
  target_compile_options(${objects} PRIVATE -fno-semantic-interposition)

  mooring_driver_shared(${name} ${objects} ${library} "${d_HIDDEN}")
  # As with libmooring.a: a sanitizer's or coverage's calls do not belong into an archive.
  if(TARGET mooring_static)
    mooring_driver_static(${name} ${objects} ${library} "${d_HIDDEN}")
  endif()
  if(MOORING_INSTALL)
    mooring_install_driver(${name} "${d_PACKAGE}" "${d_HIDDEN}")
  endif()
endfunction()

function(mooring_driver_shared name objects library is_hidden)
  set(map "${CMAKE_CURRENT_BINARY_DIR}/mooring-${name}.map")
  string(TOUPPER "${name}" node)
  file(CONFIGURE OUTPUT "${map}" CONTENT "MOORING_@node@_0 {\n    global: moor_*;\n    local: *;\n};\n"
       @ONLY)
  add_library(mooring_${name} SHARED $<TARGET_OBJECTS:${objects}>)
  add_library(mooring::${name} ALIAS mooring_${name})
  set_target_properties(mooring_${name} PROPERTIES
    OUTPUT_NAME mooring-${name} EXPORT_NAME ${name} LINKER_LANGUAGE C
    VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR} LINK_DEPENDS "${map}"
    LIBRARY_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}" ARCHIVE_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}"
    # Both libraries lie in one folder, wherever that is moved to.
    INSTALL_RPATH "\$ORIGIN")
  target_link_libraries(mooring_${name} PUBLIC mooring PRIVATE ${library} Threads::Threads)
  if(NOT is_hidden)
    # Not PUBLIC: an installed mooring finds the library anew, see mooring-driver.cmake.in.
    target_link_libraries(mooring_${name} INTERFACE $<BUILD_INTERFACE:${library}>)
  endif()
  target_link_options(mooring_${name} PRIVATE "-Wl,--version-script=${map}" -Wl,-Bsymbolic-functions
                      -Wl,-z,now -Wl,--as-needed)
  if(NOT MOORING_SANITIZE)
    target_link_options(mooring_${name} PRIVATE -Wl,--no-undefined)
  endif()
endfunction()

# One object in which only moor_* is global, as libmooring.a is.
function(mooring_driver_static name objects library is_hidden)
  set(object "${CMAKE_CURRENT_BINARY_DIR}/libmooring-${name}.o")
  add_custom_command(
    OUTPUT "${object}"
    COMMAND ${CMAKE_LINKER} -r -o "${object}.all" "$<TARGET_OBJECTS:${objects}>"
    COMMAND "${MOORING_OBJCOPY}" --wildcard "--keep-global-symbol=moor_*" "${object}.all" "${object}"
    COMMAND "${CMAKE_COMMAND}" -E rm "${object}.all"
    DEPENDS ${objects} "$<TARGET_OBJECTS:${objects}>"
    COMMAND_EXPAND_LISTS VERBATIM
    COMMENT "Joining the objects of the driver ${name} into one")
  add_library(mooring_${name}_static STATIC "${object}")
  add_library(mooring::${name}_static ALIAS mooring_${name}_static)
  set_target_properties(mooring_${name}_static PROPERTIES
    OUTPUT_NAME mooring-${name} EXPORT_NAME ${name}_static LINKER_LANGUAGE C
    ARCHIVE_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}")
  target_link_libraries(mooring_${name}_static INTERFACE mooring_static $<BUILD_INTERFACE:${library}>)
endfunction()

function(mooring_install_driver name package is_hidden)
  string(TOUPPER "${name}" upper)
  set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/mooring)
  if(EXISTS "${PROJECT_SOURCE_DIR}/include/mooring/${name}.h")
    install(FILES "${PROJECT_SOURCE_DIR}/include/mooring/${name}.h"
            DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/mooring)
  endif()
  install(TARGETS mooring_${name} mooring_${name}_static EXPORT mooring-${name}-targets)
  install(EXPORT mooring-${name}-targets NAMESPACE mooring:: DESTINATION ${package_dir})
  configure_file("${PROJECT_SOURCE_DIR}/cmake/mooring-driver.cmake.in"
                 "${CMAKE_CURRENT_BINARY_DIR}/mooring-${name}.cmake" @ONLY)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/mooring-${name}.cmake" DESTINATION ${package_dir})

  # pkg-config wants "libx >= 1.2" where CMake wants "libx>=1.2".
  string(REGEX REPLACE "([<>=]+)" " \\1 " requires "${package}")
  if(is_hidden)
    set(requires_public "mooring = ${PROJECT_VERSION}")
    set(requires_private "${requires}")
  else()
    set(requires_public "mooring = ${PROJECT_VERSION}, ${requires}")
    set(requires_private "")
  endif()
  configure_file("${PROJECT_SOURCE_DIR}/cmake/mooring-driver.pc.in"
                 "${CMAKE_CURRENT_BINARY_DIR}/mooring-${name}.pc" @ONLY)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/mooring-${name}.pc"
          DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endfunction()
