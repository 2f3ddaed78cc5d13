# SPDX-License-Identifier: MIT
#
# Compiles for macOS, the BSDs and Windows on Arm with `zig cc`, which brings each system's headers
# and link stubs. What it links can't be run here; that it links is the check.
#
#   -DPIER_ZIG=/path/to/zig -DPIER_ZIG_TARGET=aarch64-macos
#
# tools/ci/cross.sh installs zig and uses this file once per target. The first program for a target
# takes half a minute, on Windows targets several: zig compiles that system's libc then, into the
# cache that ZIG_GLOBAL_CACHE_DIR names.

list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES PIER_ZIG PIER_ZIG_TARGET)

if(NOT PIER_ZIG OR NOT EXISTS "${PIER_ZIG}")
  message(FATAL_ERROR "PIER_ZIG=${PIER_ZIG} isn't a file: set it to the path of the zig program")
endif()

if(NOT PIER_ZIG_TARGET MATCHES "^(x86_64|aarch64)-(macos|freebsd|netbsd|openbsd|windows-gnu)$")
  message(FATAL_ERROR "PIER_ZIG_TARGET=${PIER_ZIG_TARGET} isn't known here: use x86_64 or aarch64 "
    "with macos, freebsd, netbsd, openbsd or windows-gnu, as in aarch64-macos")
endif()
set(CMAKE_SYSTEM_PROCESSOR ${CMAKE_MATCH_1})
set(system ${CMAKE_MATCH_2})

if(system STREQUAL "macos")
  set(CMAKE_SYSTEM_NAME Darwin)
elseif(system STREQUAL "freebsd")
  set(CMAKE_SYSTEM_NAME FreeBSD)
elseif(system STREQUAL "netbsd")
  set(CMAKE_SYSTEM_NAME NetBSD)
elseif(system STREQUAL "openbsd")
  set(CMAKE_SYSTEM_NAME OpenBSD)
else()
  set(CMAKE_SYSTEM_NAME Windows)
endif()

set(CMAKE_C_COMPILER ${PIER_ZIG} cc)
set(CMAKE_C_COMPILER_TARGET ${PIER_ZIG_TARGET})

# Archives are made by `zig ar`, which writes the index itself.
set(CMAKE_C_ARCHIVE_CREATE "${PIER_ZIG} ar qc <TARGET> <OBJECTS>")
set(CMAKE_C_ARCHIVE_APPEND "${PIER_ZIG} ar q <TARGET> <OBJECTS>")
set(CMAKE_C_ARCHIVE_FINISH "${PIER_ZIG} ranlib <TARGET>")

set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)

# Without optimisation zig adds its undefined-behaviour sanitizer, whose runtime it would compile
# for the few programs that CMake tries.
set(CMAKE_TRY_COMPILE_CONFIGURATION Release)
