# SPDX-License-Identifier: MIT
#
# What `cmake --install` puts where: the libraries, the headers, pier.pc, the CMake package with
# pier::pier (shared) and pier::static, the manual pages, the licence and the command; and the
# target `uninstall`, which takes away again what was put there.
#
# pier.pc and the package name the same dependencies. The shared library brings its own: whoever
# links with it needs neither liburing's development files nor a flag. The static library can't, so
# the one who links names them for it. tests/install builds programs against installed copies of
# each kind, also where there is no liburing.pc.

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

# What a program that links the archive has to name besides: needed by all where there is nothing
# else to link with, and else with `pkg-config --static` alone. liburing is named by its flags then,
# since Requires.private asks for liburing.pc also of those who use the shared library.
set(PIER_PC_REQUIRES "")
set(PIER_PC_LIBS "")
set(PIER_PC_LIBS_PRIVATE "")
set(PIER_PC_CFLAGS "")
set(PIER_PC_CFLAGS_PRIVATE "")
if(WIN32)
  set(static_libs "-lws2_32 -lmswsock -ladvapi32")
else()
  set(static_libs "${CMAKE_THREAD_LIBS_INIT}")
endif()
if(PIER_SHARED)
  if(PIER_HAVE_URING)
    set(uring_flags ${PIER_LIBURING_LDFLAGS})
    foreach(directory IN LISTS CMAKE_C_IMPLICIT_LINK_DIRECTORIES)
      list(REMOVE_ITEM uring_flags "-L${directory}")
    endforeach()
    string(REPLACE ";" " " uring_flags "${uring_flags}")
    set(static_libs "${uring_flags} ${static_libs}")
  endif()
  string(STRIP "${static_libs}" PIER_PC_LIBS_PRIVATE)
else()
  if(PIER_HAVE_URING)
    set(PIER_PC_REQUIRES "liburing >= 2.3")
  endif()
  set(PIER_PC_LIBS "${static_libs}")
endif()
if(WIN32 AND PIER_SHARED)
  set(PIER_PC_CFLAGS_PRIVATE "-DPIER_STATIC")
elseif(WIN32)
  set(PIER_PC_CFLAGS "-DPIER_STATIC")
endif()

# configure_file() would leave blanks behind where a field is empty.
set(generated ${PROJECT_BINARY_DIR}/generated)
configure_file(cmake/pier.pc.in ${generated}/pier.pc.blanks @ONLY)
file(READ ${generated}/pier.pc.blanks pc_text)
string(REGEX REPLACE "[ ]+\n" "\n" pc_text "${pc_text}")
file(GENERATE OUTPUT ${generated}/pier.pc CONTENT "${pc_text}")
configure_package_config_file(cmake/pier-config.cmake.in ${generated}/pier-config.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/pier)
write_basic_package_version_file(${generated}/pier-config-version.cmake
  COMPATIBILITY SameMinorVersion)

# Each kind of library is an export of its own: the static one names targets that only its users
# have to find, see pier-config.cmake.in.
install(TARGETS pier EXPORT pier-static-targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT pier-static-targets NAMESPACE pier::
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/pier)
if(PIER_SHARED)
  install(TARGETS pier-shared EXPORT pier-shared-targets
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
    RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(EXPORT pier-shared-targets NAMESPACE pier::
    DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/pier)
endif()
install(FILES ${generated}/pier-config.cmake ${generated}/pier-config-version.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/pier)
install(FILES ${generated}/pier.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/pier)
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

# A project that pier is part of may have such a target of its own.
if(PIER_IS_TOP_LEVEL)
  add_custom_target(uninstall
    COMMAND ${CMAKE_COMMAND} -DMANIFEST=${PROJECT_BINARY_DIR}/install_manifest.txt
      -P ${PROJECT_SOURCE_DIR}/cmake/uninstall.cmake VERBATIM)
endif()
