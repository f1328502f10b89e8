# cmake --install: headers, both libraries, mooring.pc, the CMake package, manual pages.
# The program mooring is installed by tools/mooring/CMakeLists.txt.

include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/mooring)

# A driver's header is installed with its driver, by cmake/driver.cmake.
set(driver_headers "")
foreach(name IN LISTS MOORING_DRIVERS_KNOWN)
  list(APPEND driver_headers PATTERN "mooring/${name}.h" EXCLUDE)
endforeach()
install(DIRECTORY include/mooring DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILES_MATCHING PATTERN "*.h" ${driver_headers})
if(EXISTS "${PROJECT_SOURCE_DIR}/include/mooring.h")
  install(FILES include/mooring.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
endif()
install(TARGETS mooring mooring_static EXPORT mooring-targets)

# The targets' own -luring, -lcares and -lnghttp2 are found again by the package file, on the installing
# machine's terms; see mooring-config.cmake.in.
install(EXPORT mooring-targets NAMESPACE mooring:: DESTINATION ${package_dir})
configure_package_config_file(cmake/mooring-config.cmake.in
  "${CMAKE_CURRENT_BINARY_DIR}/mooring-config.cmake" INSTALL_DESTINATION ${package_dir})
# Before 1.0 a minor version may change the API.
write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/mooring-config-version.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/mooring-config.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/mooring-config-version.cmake"
        DESTINATION ${package_dir})

# Relative to the .pc file itself, so that an installed tree can be moved or staged.
cmake_path(IS_ABSOLUTE CMAKE_INSTALL_LIBDIR libdir_is_absolute)
if(libdir_is_absolute)
  set(MOORING_PC_PREFIX "${CMAKE_INSTALL_PREFIX}")
else()
  file(RELATIVE_PATH pc_up "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
  set(MOORING_PC_PREFIX "\${pcfiledir}/${pc_up}")
endif()
configure_file(cmake/mooring.pc.in "${CMAKE_CURRENT_BINARY_DIR}/mooring.pc" @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/mooring.pc"
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
foreach(section 1 3 7)
  file(GLOB pages CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/man/*.${section}")
  if(pages)
    install(FILES ${pages} DESTINATION ${CMAKE_INSTALL_MANDIR}/man${section})
  endif()
endforeach()
