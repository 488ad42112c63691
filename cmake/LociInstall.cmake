# What `cmake --install` gives: headers, libloci and a package that find_package(loci) finds.
include(CMakePackageConfigHelpers)
set(loci_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/loci)

install(DIRECTORY ${PROJECT_SOURCE_DIR}/loci DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILES_MATCHING PATTERN "*.h" PATTERN "*_kernel.h" EXCLUDE)
install(TARGETS loci EXPORT lociTargets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT lociTargets NAMESPACE loci:: DESTINATION ${loci_package_dir})

configure_package_config_file(cmake/lociConfig.cmake.in ${PROJECT_BINARY_DIR}/lociConfig.cmake
  INSTALL_DESTINATION ${loci_package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/lociConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/lociConfig.cmake ${PROJECT_BINARY_DIR}/lociConfigVersion.cmake
  cmake/LociTorch.cmake DESTINATION ${loci_package_dir})
