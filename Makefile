# Two commands for a user: `make demo` and `make test`. Each sets up .venv from nothing but
# Python >= 3.11, make and a C++ compiler, and reuses it the second time.

PYTHON ?= python3
VENV ?= .venv
PEERS ?= .venv-peers
OLDEST ?= .venv-oldest
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
BIN := $(VENV)/bin
CONSTRAINTS :=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(addprefix --constraint ,$(CONSTRAINTS))

.PHONY: demo test lint types suite suite-without-jit coverage oldest bench bench-micro gpu clean

demo: $(VENV)/.demo
	$(BIN)/fastnn train digits

# Types are checked beside the tests of plain Python, on one core. The suite runs last, so that pytest's summary is the
# last thing printed.
test: lint
	$(MAKE) --no-print-directory --output-sync -j 2 types suite-without-jit
	$(MAKE) --no-print-directory suite

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

# Each file of tests runs in one of so many processes. They compile much and wait little, so two halve the time on two cores; `make test WORKERS=0` runs in this one.
WORKERS ?= 2
# Images of containers often forbid Python to keep bytecode. Then each process compiles from their text what it imports: a second for every one that a test starts with the Numba engine, and seconds for the tests themselves.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n $(WORKERS) --dist loadfile

# The kernels of the CPU once more as plain Python: the same values without the compiler.
suite-without-jit: $(VENV)/.dev
	NUMBA_DISABLE_JIT=1 $(PYTEST) -q -m "not slow and not gpu" -k "numba and not float64" $(COUNTED) tests/test_operations.py tests/test_activations.py tests/test_costs.py tests/test_programs.py tests/test_layerwise.py tests/test_elementary.py tests/test_prediction.py tests/test_inputs_as_they_come.py tests/test_panels.py tests/test_split_program.py tests/test_numba_amx.py tests/test_numba_octets.py tests/test_row_weights.py

# The code that writes instructions for the compiler runs, and counts, only where nothing compiled is on disk yet: hence a cache of the suite's own, empty at first.
TEST_CACHE := $(CURDIR)/build/test-cache
suite: $(VENV)/.dev
	rm -rf $(TEST_CACHE)
	XDG_CACHE_HOME=$(TEST_CACHE) $(PYTEST) $(COUNTED)

# Which lines the tests reach: not in `make test`, because counting takes half as long again. Compiled code cannot be
# counted, so the run as plain Python counts too; at least 95 % together.
coverage:
	rm -f .coverage
	$(MAKE) suite-without-jit COUNTED="--cov --cov-report="
	$(MAKE) suite COUNTED="--cov --cov-append --cov-report=term-missing:skip-covered --cov-fail-under=95"

# The demo and the suite with the oldest release of each dependency that pyproject.toml allows, in an environment of its
# own. Not in `make test`: these releases do not change, so it is for who moves a bound or calls something new of theirs.
oldest:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])' || { echo "the oldest releases are made for Python 3.11 and 3.12; $(PYTHON) is $$($(PYTHON) --version). Try: make oldest PYTHON=python3.11"; exit 1; }
	$(MAKE) demo VENV=$(OLDEST) CONSTRAINTS=tests/oldest.txt
	$(MAKE) suite VENV=$(OLDEST) CONSTRAINTS=tests/oldest.txt

# fastnn beside the other libraries, which get an environment of their own (gigabytes). BENCH holds
# the command's options: make bench BENCH="--quick --html page.html". --resume is among them.
bench: $(PEERS)/.peers
	$(PEERS)/bin/fastnn bench $(BENCH)

# On a machine with an NVIDIA GPU: tests, sanitizer, determinism and speed in under 8 minutes. It takes the Python
# that is there and installs nothing, because such machines may have no network. make gpu GPU="--quick --data DIR".
gpu:
	$(PYTHON) bench/gpu.py $(GPU)

bench-micro: $(VENV)/.dev
	$(BIN)/pytest bench --benchmark-only --benchmark-group-by=group

# What cannot be installed here is left out, and the comparison lists it as absent. PyTorch's own
# index has a build without CUDA, which is a tenth of the size; where it cannot be reached, PyPI's is taken.
PEERS_PIP := $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check
$(PEERS)/.peers: pyproject.toml
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS_PIP) --editable ".[all]"
	$(PEERS_PIP) --editable ".[mkl]" || echo "MKL cannot be installed here: fastnn multiplies with SciPy's BLAS"
	-$(PEERS)/bin/python -c "import torch" 2>/dev/null || $(PEERS_PIP) --retries 1 --no-deps --index-url $(TORCH_INDEX) torch
	$(PEERS_PIP) --editable ".[all,peers]" || for peer in scikit-learn torch jax onnxruntime onnx; do $(PEERS_PIP) $$peer || echo "$$peer cannot be installed here: it will be listed as absent"; done
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fastnn needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(PIP) --editable ".[all]"
	@touch $@

$(VENV)/.dev: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(PIP) --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) $(PEERS) $(OLDEST) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage
