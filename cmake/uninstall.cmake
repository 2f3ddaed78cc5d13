# SPDX-License-Identifier: MIT
#
# Takes away what the last `cmake --install` of a build directory has put there, as its
# install_manifest.txt lists it, and then those of pier's own directories that are empty.
#
# usage: [DESTDIR=...] cmake -DMANIFEST=build/install_manifest.txt -P cmake/uninstall.cmake

if(NOT EXISTS "${MANIFEST}")
  message(FATAL_ERROR "There is no ${MANIFEST}: nothing has been installed from this directory")
endif()

file(STRINGS "${MANIFEST}" files)
set(directories "")
foreach(file IN LISTS files)
  set(path "$ENV{DESTDIR}${file}")
  # IS_SYMLINK, since a link to a file that is gone already doesn't exist for EXISTS.
  if(EXISTS "${path}" OR IS_SYMLINK "${path}")
    message(STATUS "Removing ${path}")
    file(REMOVE "${path}")
    if(EXISTS "${path}" OR IS_SYMLINK "${path}")
      message(FATAL_ERROR "Cannot remove ${path}")
    endif()
  endif()
  get_filename_component(directory "${path}" DIRECTORY)
  list(APPEND directories "${directory}")
endforeach()

# include/pier, include/pier-kqueue/sys, lib/cmake/pier, share/licenses/pier: others are not ours.
list(REMOVE_DUPLICATES directories)
foreach(directory IN LISTS directories)
  while(directory MATCHES "/pier(-kqueue)?(/sys)?$" AND IS_DIRECTORY "${directory}")
    file(GLOB left LIST_DIRECTORIES true "${directory}/*" "${directory}/.*")
    list(FILTER left EXCLUDE REGEX "/\\.\\.?$")
    if(left)
      break()
    endif()
    file(REMOVE_RECURSE "${directory}")
    get_filename_component(directory "${directory}" DIRECTORY)
  endwhile()
endforeach()
