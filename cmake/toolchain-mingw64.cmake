# SPDX-License-Identifier: MIT
#
# Compiles for 64-bit Windows with MinGW-w64, as Debian packages it (gcc-mingw-w64-x86-64).
#
# The variant with Windows' own threads is taken where it has a name of its own: the other one makes
# every program depend on libwinpthread-1.dll. tools/ci/windows.sh uses this file and names the
# emulator, so that ctest runs the tests under Wine.

set(CMAKE_SYSTEM_NAME Windows)
set(CMAKE_SYSTEM_PROCESSOR x86_64)

set(prefix x86_64-w64-mingw32)
find_program(CMAKE_C_COMPILER NAMES ${prefix}-gcc-win32 ${prefix}-gcc REQUIRED)
find_program(CMAKE_RC_COMPILER NAMES ${prefix}-windres)

# Thread-local variables call into libgcc, and a DLL would take it from libgcc_s_seh-1.dll, which no
# Windows has.
set(CMAKE_EXE_LINKER_FLAGS_INIT -static-libgcc)
set(CMAKE_SHARED_LINKER_FLAGS_INIT -static-libgcc)

set(CMAKE_FIND_ROOT_PATH /usr/${prefix})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
