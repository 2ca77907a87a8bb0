# make demo   set up .venv and run the demonstration
# make test   set up .venv and run every check; continuous integration runs make triton36, too
# make fuzz   random models and calls against the naive loop, 10,000 of them: FUZZ_CASES; FUZZ_JOBS processes, by default one a core
# make fuzz-programs   damaged programs for the native engine, 100,000 of them; fuzz-programs-asan, -tsan: with sanitizers
# make fuzz-files   damaged checkpoint, configuration, data and picture files, 100,000 of them
# make asan   the native engine's tests with AddressSanitizer and UndefinedBehaviorSanitizer; make tsan: with ThreadSanitizer
# make emulated   the native engine's tests with every instruction set, those that this machine lacks emulated by SIMDe
# make triton36   the Triton kernels compiled ahead of time by Triton 3.6, the oldest that is supported
# make gpu-check  everything that a session with a GPU should find out, into build/gpu-check/
# make bench  the speed report, some minutes; bench-quick: under a minute; bench-micro: the engine's operations one by one
#
# Needs Python (3.10 or later, with venv) and, for the native engine, a C++17 compiler.
# make PYTHON=python3.12 VENV=/elsewhere/venv ... choose others than python3 and .venv.

PYTHON ?= python3
VENV ?= .venv
FUZZ_CASES ?= 10000
PROGRAM_CASES ?= 100000
FUZZ_FILES ?= 100000

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NATIVE := setup.py $(wildcard csrc/*.cpp csrc/*.h csrc/cpu/*.cpp csrc/cpu/*.h csrc/cuda/*)
PACKAGE := $(shell find pixelfast kernels -name '*.py')
SIMDE ?= /usr/include
OLDEST_TRITON := 3.6.0
PRECISION_TESTS := tests/engines/native/test_precision.py
ENGINE_TESTS := $(filter-out $(PRECISION_TESTS),$(wildcard tests/engines/native/test_*.py))
comma := ,
RUNTIME = $(shell $(CXX) -print-file-name=lib$(1).so)

.PHONY: setup demo test lint pytest fuzz fuzz-files fuzz-programs fuzz-programs-asan fuzz-programs-tsan asan tsan emulated triton36 gpu-check bench bench-quick bench-micro clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@$(BIN)/python -c "from pixelfast.engines.native import engine as cpu; print(cpu.unavailable_reason() or 'the native CPU engine is built')"
	@touch $@

demo: $(STAMP)
	$(BIN)/python benchmarks/demo.py --out demo

test: lint pytest

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

pytest: $(STAMP)
	$(BIN)/python -m pytest

fuzz: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/helpers/fuzz_models.py --cases $(FUZZ_CASES) $(if $(FUZZ_JOBS),--jobs $(FUZZ_JOBS))

fuzz-programs: $(STAMP)
	$(BIN)/python tests/helpers/fuzz_programs.py --cases $(PROGRAM_CASES)

fuzz-files: $(STAMP)
	PIXELFAST_FUZZ_FILES=$(FUZZ_FILES) $(BIN)/python -m pytest tests/files/test_mutated_files.py

# A package of its own, so that the fast build stays. pytest by its own name: by `python -m` it would import the one here.
# Objects of the fast build, which setuptools would take for its own, go first.
build/asan/.installed build/tsan/.installed: $(STAMP) $(NATIVE) $(PACKAGE)
	rm -rf $(@D) build/lib* build/temp*
	PIXELFAST_SANITIZE=$(if $(findstring asan,$@),address$(comma)undefined,thread) $(BIN)/python -m pip install \
		--disable-pip-version-check --no-deps --target $(@D) .
	ls $(@D)/pixelfast/_cpu.*
	@touch $@

WITH_ASAN = PYTHONPATH=build/asan LD_PRELOAD="$(call RUNTIME,asan) $(call RUNTIME,ubsan)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=1024 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
WITH_TSAN = PYTHONPATH=build/tsan LD_PRELOAD=$(call RUNTIME,tsan) OMP_NUM_THREADS=1 TSAN_OPTIONS=exitcode=66

asan: build/asan/.installed
	$(WITH_ASAN) $(BIN)/pytest $(ENGINE_TESTS)

# PyTorch's own threads are no business of ours.
tsan: build/tsan/.installed
	$(WITH_TSAN) $(BIN)/pytest $(ENGINE_TESTS)

fuzz-programs-asan: build/asan/.installed
	$(WITH_ASAN) $(BIN)/python tests/helpers/fuzz_programs.py --cases $(PROGRAM_CASES) --limit 300

# Where threads share a tile; a tenth of the programs, since ten times as slow.
fuzz-programs-tsan: build/tsan/.installed
	$(WITH_TSAN) $(BIN)/python tests/helpers/fuzz_programs.py --shared --cases $$(($(PROGRAM_CASES) / 10)) --limit 300

build/emulated/.installed: $(STAMP) $(NATIVE) $(PACKAGE)
	rm -rf $(@D) build/lib* build/temp*
	PIXELFAST_EMULATE=$(SIMDE) $(BIN)/python -m pip install --disable-pip-version-check --no-deps --target $(@D) .
	ls $(@D)/pixelfast/_cpu.*
	@touch $@

emulated: build/emulated/.installed
	PYTHONPATH=build/emulated $(BIN)/pytest $(ENGINE_TESTS) $(PRECISION_TESTS)

# Beside the newest Triton that .venv has, and before it on the path. Its compiler alone: its interpreter wants an older NumPy.
build/triton-$(OLDEST_TRITON)/.installed: $(STAMP)
	rm -rf $(@D)
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --target $(@D) triton==$(OLDEST_TRITON) || { \
		echo "make triton36: Triton $(OLDEST_TRITON) cannot be installed here, so nothing was checked with it: it needs Linux on" \
			"x86-64, a Python that it has wheels for, and a package index" >&2; exit 1; }
	@touch $@

triton36: build/triton-$(OLDEST_TRITON)/.installed
	@PYTHONPATH=$(<D) $(BIN)/python -c "import triton; found = triton.__version__; \
		assert found == '$(OLDEST_TRITON)', f'Triton {found} is found instead of $(OLDEST_TRITON)'; print('Triton', found)"
	PYTHONPATH=$(<D) $(BIN)/pytest $(shell find tests -name 'test_*_compiled.py')

gpu-check: $(STAMP)
	PYTHON=$(BIN)/python benchmarks/gpu_check.sh build/gpu-check

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py $(BENCH_OPTIONS)

bench-quick: $(STAMP)
	$(BIN)/python benchmarks/run.py --quick $(BENCH_OPTIONS)

bench-micro: $(STAMP)
	@mkdir -p build
	$(BIN)/python -m pytest benchmarks/micro/bench_operations.py --benchmark-columns=median,iqr,rounds --benchmark-sort=fullname \
		--benchmark-json=build/bench-micro.json

clean:
	rm -rf build demo .pytest_cache .mypy_cache .ruff_cache pixelfast/*.so $(VENV)
