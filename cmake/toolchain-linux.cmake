# SPDX-License-Identifier: MIT
#
# Compiles for Linux on another processor with Debian's cross compilers (gcc-aarch64-linux-gnu
# and its kin).
#
#   -DPIER_ARCHITECTURE=aarch64       or riscv64, or s390x, which is big-endian
#
# tools/ci/qemu.sh uses this file and names the emulator, so that ctest runs the tests under
# qemu-user.

list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES PIER_ARCHITECTURE)

if(NOT PIER_ARCHITECTURE)
  message(FATAL_ERROR "PIER_ARCHITECTURE isn't set: name a processor, as in aarch64")
endif()

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR ${PIER_ARCHITECTURE})

set(prefix ${PIER_ARCHITECTURE}-linux-gnu)
find_program(CMAKE_C_COMPILER NAMES ${prefix}-gcc REQUIRED)

set(CMAKE_FIND_ROOT_PATH /usr/${prefix})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
# Libraries from elsewhere come through pkg-config only, which answers with whole paths.
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY BOTH)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
