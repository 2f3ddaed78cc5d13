# SPDX-License-Identifier: MIT
#
# Short names for what people do with the project. Everything real is in CMake, in tools/ and in
# tests/runner; this file needs only make and a shell. `make help` lists the targets.
#
# Each target first sees to its own packages (tools/install-deps, which calls apt only when one is
# missing); `make DEPS=no ...` leaves that out.

JOBS := $(shell nproc 2>/dev/null || echo 2)
# The tests wait for two thirds of their time, so that more of them than processors are of use.
TEST_JOBS = 4
PREFIX = /usr/local
DESTDIR =
DEPS = yes
BENCH =
TESTS =

MAKEFLAGS += --no-print-directory
BUILD = cmake --build
RUN = TEST_JOBS=$(TEST_JOBS) sh tests/runner/run

# The C files that the formatter and the analysers look at.
SOURCES = $(shell find include src kqueue tools bench examples tests -name '*.[ch]' 2>/dev/null)

ifeq ($(DEPS),no)
deps = :
else
deps = tools/install-deps
endif

.PHONY: all
all: ## build the optimised library and the pier command into build/ (the default)
	@$(deps) base
	@cmake -S . -B build -DCMAKE_BUILD_TYPE=Release
	@$(BUILD) build -j $(JOBS)

.PHONY: demo
demo: all ## build, then compare the backends for about a minute: a table and a report with charts
	@build/pier bench --short

.PHONY: test test-programs
test: test-programs ## run every test, built with assertions in build-test/ (TESTS='-R unit' for some)
	@$(RUN) build-test $(TESTS)

test-programs: ## build the tests without running them
	@$(deps) base test
	@cmake -S . -B build-test $(debug_options)
	@$(BUILD) build-test -j $(JOBS)

# The debug preset of CMakePresets.json in words, for CMake before 3.21.
debug_options = -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG='-Og -g' -DPIER_TESTS=ON \
	-DPIER_EXAMPLES=ON -DPIER_KQUEUE_EMULATION=ON

.PHONY: bench
bench: all ## build the programs under comparison and measure pier beside them (bench/)
	@$(deps) base bench
	@cmake -S . -B build -DPIER_BENCH=ON
	@$(BUILD) build -j $(JOBS)
	@bench/run $(BENCH)

.PHONY: asan tsan
asan tsan: ## run every test with the address and undefined-behaviour, or the thread sanitizer
	@$(deps) base test
	@cmake --preset $@
	@$(BUILD) --preset $@ -j $(JOBS)
	@$(RUN) build-$@ $(TESTS)

.PHONY: valgrind
valgrind: ## run the unit tests under valgrind
	@$(deps) base ci
	@cmake --preset valgrind
	@$(BUILD) --preset valgrind -j $(JOBS)
	@$(RUN) build-valgrind -L unit $(TESTS)

FUZZ_SECONDS = 60
.PHONY: fuzz
fuzz: ## fuzz the address parser and random op sequences for FUZZ_SECONDS (60) each
	@$(deps) base ci
	@JOBS=$(JOBS) tools/fuzz $(FUZZ_SECONDS)

.PHONY: no-uring
no-uring: test-programs ## run every test where the kernel forbids io_uring, as containers do
	@TEST_JOBS=$(TEST_JOBS) build-test/no-uring EPERM tests/runner/run build-test $(TESTS)

.PHONY: test-windows
test-windows: ## build with MinGW-w64 and run the tests under Wine
	@$(deps) base windows
	@sh tools/ci/windows.sh $(TESTS)

.PHONY: msvc
msvc: ## compile for Windows with clang in MSVC's mode, as near to MSVC as other systems get
	@$(deps) base msvc
	@sh tools/ci/msvc.sh

.PHONY: cross
cross: ## compile and link for macOS, the BSDs and Windows on Arm
	@$(deps) base cross
	@sh tools/ci/cross.sh

.PHONY: test-qemu
test-qemu: ## run the tests for aarch64, riscv64 and s390x Linux under qemu-user
	@$(deps) base qemu
	@sh tools/ci/qemu.sh $(TESTS)

.PHONY: test-m32 test-musl
test-m32 test-musl: ## run unit tests and conformance as programs of 32 bits, or on musl
	@$(deps) base $(@:test-%=%)
	@sh tools/ci/linux.sh $(@:test-%=%) $(TESTS)

.PHONY: format format-check
format: ## reformat every C file
	@$(deps) ci
	@clang-format -i $(SOURCES)
format-check: ## complain about C files that `make format` would change
	@$(deps) ci
	@clang-format --dry-run --Werror $(SOURCES)

.PHONY: tidy
tidy: ## analyse the library and the command with clang-tidy and cppcheck
	@$(deps) base ci
	@cmake --preset clang
	@JOBS=$(JOBS) tools/analyse build-clang

.PHONY: install
install: all ## install into $(DESTDIR)$(PREFIX)
	@cmake -S . -B build -DCMAKE_INSTALL_PREFIX="$(PREFIX)" >/dev/null
	@$(BUILD) build -j $(JOBS) >/dev/null
	@DESTDIR="$(DESTDIR)" cmake --install build

.PHONY: uninstall
uninstall: ## remove what the last `make install` has put there
	@DESTDIR="$(DESTDIR)" $(BUILD) build --target uninstall

.PHONY: clean
clean: ## remove every build directory
	rm -rf build build-*

.PHONY: help
help: ## print this
	@awk -F ':.*## ' '/^[a-z].*:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile
