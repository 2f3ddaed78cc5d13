# What `cmake --install` puts where: the libraries, the header, pier.pc, the CMake package with
# pier::pier (shared) and pier::static, the manual pages and the command.
#
# pier.pc and the package name the same dependencies; tests/install builds a program against the
# installed copy through each of them.

include(CMakePackageConfigHelpers)

# pier.pc finds its prefix from where it lies, so that an installed tree may be moved. An absolute
# directory can't be moved and is named as it is.
set(PIER_PC_PREFIX "${CMAKE_INSTALL_PREFIX}")
if(NOT IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
  file(RELATIVE_PATH up "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
  string(REGEX REPLACE "/$" "" up "${up}")
  set(PIER_PC_PREFIX "\${pcfiledir}/${up}")
endif()
foreach(dir LIBDIR INCLUDEDIR)
  if(IS_ABSOLUTE "${CMAKE_INSTALL_${dir}}")
    set(PIER_PC_${dir} "${CMAKE_INSTALL_${dir}}")
  else()
    set(PIER_PC_${dir} "\${prefix}/${CMAKE_INSTALL_${dir}}")
  endif()
endforeach()

set(PIER_PC_REQUIRES_PRIVATE "")
set(PIER_PC_LIBS_PRIVATE "")
if(PIER_HAVE_URING)
  set(PIER_PC_REQUIRES_PRIVATE "liburing")
endif()
if(WIN32)
  set(PIER_PC_LIBS_PRIVATE "-lws2_32 -lmswsock -ladvapi32")
elseif(CMAKE_THREAD_LIBS_INIT)
  set(PIER_PC_LIBS_PRIVATE "${CMAKE_THREAD_LIBS_INIT}")
endif()

set(generated ${PROJECT_BINARY_DIR}/generated)
configure_file(cmake/pier.pc.in ${generated}/pier.pc @ONLY)
configure_package_config_file(cmake/pier-config.cmake.in ${generated}/pier-config.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/pier)
write_basic_package_version_file(${generated}/pier-config-version.cmake
  COMPATIBILITY SameMinorVersion)

set(PIER_INSTALL_TARGETS pier)
if(PIER_SHARED)
  list(APPEND PIER_INSTALL_TARGETS pier-shared)
endif()
install(TARGETS ${PIER_INSTALL_TARGETS} EXPORT pier-targets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(EXPORT pier-targets NAMESPACE pier:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/pier)
install(FILES ${generated}/pier-config.cmake ${generated}/pier-config-version.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/pier)
install(FILES ${generated}/pier.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(DIRECTORY include/pier DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILES_MATCHING PATTERN "*.h")
if(PIER_TOOLS)
  install(TARGETS pier-tool RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

# The manual pages are made from the header's own comments and from the command's --help, so they
# can't disagree with either. A cross build can't run the command and makes the library's only.
if(UNIX)
  set(man ${PROJECT_BINARY_DIR}/man)
  set(man_tool "")
  if(PIER_TOOLS AND NOT CMAKE_CROSSCOMPILING)
    set(man_tool $<TARGET_FILE:pier-tool>)
  endif()
  # pier.h comes first: pier(3) lists the functions in the order of the headers.
  file(GLOB public_headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/include/pier/*.h)
  list(REMOVE_ITEM public_headers ${PROJECT_SOURCE_DIR}/include/pier/pier.h)
  list(INSERT public_headers 0 ${PROJECT_SOURCE_DIR}/include/pier/pier.h)
  add_custom_command(OUTPUT ${man}/stamp
    COMMAND sh ${PROJECT_SOURCE_DIR}/tools/man ${PROJECT_VERSION} ${man} "${man_tool}"
      ${public_headers}
    COMMAND ${CMAKE_COMMAND} -E touch ${man}/stamp
    DEPENDS ${PROJECT_SOURCE_DIR}/tools/man ${public_headers} ${man_tool} VERBATIM)
  add_custom_target(pier-man ALL DEPENDS ${man}/stamp)
  install(DIRECTORY ${man}/man1 ${man}/man3 DESTINATION ${CMAKE_INSTALL_MANDIR})
endif()
