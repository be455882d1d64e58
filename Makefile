# Proa. Meson and ninja build; this file names what people want from them.
#
#   make              build/proa                      make check     what a commit must keep: format, layers, lengths, ...
#   make serve        build and serve MODEL           make tidy      clang-tidy
#   make test         unit and system tests           make sanitize  unit tests with address and undefined sanitizers
#   make test-long    the slow ones too               make fuzz      libFuzzer targets in build-fuzz
#   make deps         install missing packages        make format    clang-format in place
#   make docs         docs/flags.md                   make fuzz-run  each of them for SECONDS
#   make kernels      the GPU kernels alone           make clean     remove all build folders
#   make image        the container image, with docker, podman or buildah (tools/image/make.sh has its variables)
#   make arm64        cross build in build-arm64      make test-arm64  its unit tests, under qemu (docs/arm64.md)
#   make gpu-pack     build/gpu, for a machine with a GPU: `make gpu-check` there (tools/gpu_check.mk)
#
# Variables: CC=clang; ONLY=mla_cuda_decode (of kernels: this object; of test-arm64: these tests); MODEL=DIR (default: the bundled one); ARGS="flags for proa serve"; PYTEST="flags for pytest";
# PROA_TEST_DATA=DIR, the test data (default ../shared; tests that need it are skipped when it is absent).

ifeq ($(origin CC),default)
CC = gcc
endif
PROA_TEST_DATA ?= $(CURDIR)/../shared
export PROA_TEST_DATA
SECONDS ?= 60
VENV = build/venv
SANITIZE = -Db_sanitize=address,undefined -Db_lundef=false

STAMP = build/compiler-$(notdir $(CC))

.PHONY: all serve test test-long check tidy sanitize fuzz fuzz-run format docs deps clean kernels gpu-pack image arm64 test-arm64
all: $(STAMP)
	ninja -C build

# Configured afresh when CC changes; the program stays build/proa.
$(STAMP):
	@command -v meson >/dev/null || { echo "meson is missing: run 'make deps'"; exit 1; }
	rm -rf build/compiler-* build/meson-* build/build.ninja
	CC=$(CC) meson setup build
	touch $@

deps:
	tools/deps.sh build test check

serve:
	tools/deps.sh build
	$(MAKE) $(STAMP)
	ninja -C build proa
	build/proa serve $(if $(MODEL),--model-path $(MODEL)) $(ARGS)

test test-long:
	tools/deps.sh build test
	$(MAKE) all $(VENV)/installed
	meson configure build -Dtest_data=$(PROA_TEST_DATA)
	meson test -C build --print-errorlogs $(if $(filter test,$@),--no-suite long)
	@grep '\[  SKIPPED \] [a-z]' build/meson-logs/testlog.txt | sort -u || true
	$(VENV)/bin/pytest tests/system $(if $(filter test-long,$@),--long) $(PYTEST)

$(VENV)/installed: tests/system/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

check:
	tools/deps.sh build check
	$(MAKE) all
	tools/check/all.sh

kernels: $(STAMP)
	ninja -C build src/op/cuda/$(or $(ONLY:=.o),libproa_op_cuda.a)

gpu-pack: all
	tools/gpu_pack.sh build/gpu build

export IMAGE_TOOL IMAGE_FLAGS IMAGE ARCH GPU_TARGETS CUDA_VERSION CUDA_TOOLKIT BASE
image:
	tools/image/make.sh

# The sysroot is kept apart, so that a build that is made anew need not fetch packages.
ARM64_SYSROOT = build-sysroot-arm64
arm64:
	tools/deps.sh build arm64
	tools/cross/sysroot.sh $(ARM64_SYSROOT)
	test -f build-arm64/build.ninja || meson setup build-arm64 --cross-file $(ARM64_SYSROOT)/sysroot.ini \
	    --cross-file tools/cross/aarch64-linux-gnu.ini -Dtest_data=$(PROA_TEST_DATA) -Dcuda=disabled
	ninja -C build-arm64

# qemu is some twenty times slower than the machine under it.
test-arm64: arm64
	meson test -C build-arm64 --no-rebuild --print-errorlogs --timeout-multiplier 15 $(or $(ONLY),--suite unit --no-suite native)
	@grep '\[  SKIPPED \] [a-z]' build-arm64/meson-logs/testlog.txt | sort -u || true

tidy: all
	tools/tidy.sh

sanitize:
	tools/deps.sh build
	test -d build-asan || CC=$(CC) meson setup build-asan $(SANITIZE) -Dtest_data=$(PROA_TEST_DATA)
	ninja -C build-asan
	meson test -C build-asan --no-rebuild --print-errorlogs --no-suite long --timeout-multiplier 5

fuzz:
	tools/deps.sh build check
	test -d build-fuzz || CC=clang meson setup build-fuzz -Dfuzz=true -Dtests=false $(SANITIZE)
	ninja -C build-fuzz

# Each target for SECONDS, from the seeds in tests/fuzz/corpus and what earlier runs found. A finding stays in build-fuzz.
fuzz-run: fuzz
	@cd build-fuzz && for target in $$(find tests/fuzz -name "fuzz_*" -type f -executable | sort); do \
	    name=$${target##*/}; mkdir -p found/$$name; seeds=../tests/fuzz/corpus/$${name#fuzz_}; echo "== $$name"; \
	    [ -d $$seeds ] || seeds=; $$target -max_total_time=$(SECONDS) -print_final_stats=1 found/$$name $$seeds || exit 1; \
	done

format:
	clang-format -i $$(find src tests bench -name '*.[ch]' -o -name '*.inc')

docs: all
	build/proa help --format=markdown > docs/flags.md

clean:
	rm -rf build build-asan build-fuzz build-arm64 $(ARM64_SYSROOT)
