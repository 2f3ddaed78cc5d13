# SPDX-License-Identifier: MIT
#
# Compiles for 64-bit Windows with clang in MSVC's mode, which is what there is of MSVC on other
# systems: its target, its command line, its predefined words (no __GNUC__), on Wine's headers.
#
#   -DPIER_MSVC_TOOLS=directory       of clang-cl, and of a program `nolink` that stands for the
#                                     archiver and the linker
#
# The headers are those of Debian's package libwine-dev. Nothing is linked: MSVC's C library is on
# Windows only. tools/ci/msvc.sh uses this file.

list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES PIER_MSVC_TOOLS)

if(NOT PIER_MSVC_TOOLS)
  message(FATAL_ERROR "PIER_MSVC_TOOLS isn't set: tools/ci/msvc.sh makes such a directory")
endif()

set(CMAKE_SYSTEM_NAME Windows)
set(CMAKE_SYSTEM_PROCESSOR AMD64)
set(CMAKE_C_COMPILER ${PIER_MSVC_TOOLS}/clang-cl)
set(CMAKE_C_COMPILER_TARGET x86_64-pc-windows-msvc)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
foreach(program AR LINKER MT RC_COMPILER)
  set(CMAKE_${program} ${PIER_MSVC_TOOLS}/nolink CACHE FILEPATH "Nothing is linked")
endforeach()

# As of Visual Studio 2022 17.10.
set(CMAKE_C_FLAGS_INIT "-fms-compatibility-version=19.40")
foreach(folder msvcrt windows)
  string(APPEND CMAKE_C_FLAGS_INIT " -imsvc /usr/include/wine/wine/${folder}")
endforeach()

# What clang takes and MSVC doesn't is a warning, and some of it banned. (Not in the flags above:
# by those CMake finds out which compiler it is, and the header hides that it's clang.)
add_compile_options(-Wpedantic -Wgnu -Wvla -Wshadow -Wno-builtin-macro-redefined
  -FI${CMAKE_CURRENT_LIST_DIR}/../tools/ci/msvc.h)
