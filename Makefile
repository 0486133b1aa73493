# demo and test need nothing but Python >= 3.11 with its headers, make and g++: they make .venv and install into it.
#
#   PYTHON=python3.12    the Python that .venv is made with; once it is there, its own counts
#   DEMO_FLAGS=FLAGS     more flags for the demo's launch, e.g. DEMO_FLAGS=--num-steps=80
#   SEED=N               the choices of make fuzz; by default 1
#   CONSTRAINTS=FILE     other versions than constraints.txt pins, e.g. a torch for your driver; empty: the newest

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(or $(wildcard $(BIN)/python),python3)
CONSTRAINTS ?= constraints.txt
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
SEED ?= 1
DEMO_NAME := demo_$(shell date +%Y%m%d_%H%M%S)
FAST := not integration and not gpu

# Several processes on few cores: one thread each is fastest, and results repeat.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

.PHONY: help demo test check lint fix types fast-tests coverage install machine bench fuzz constraints wheel clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: install ## set up, run the capacity sweep at a tiny size on the CPU, export and report
	$(BIN)/nanochat-sweep launch sweeps/capacity.py --preset tiny --address local --name $(DEMO_NAME) $(DEMO_FLAGS)
	@echo; echo "The tables and the report can be made again from storage at any time:"
	$(BIN)/nanochat-sweep export $(DEMO_NAME)
	$(BIN)/nanochat-sweep report $(DEMO_NAME)

# In the order of tests/conftest.py, by two processes, as some tests start clusters of several nodes. Then the long ones,
# each alone in a process of its own: Ray ends a process a minute after the cluster of a launch that was cut short.
test: lint ## everything that CI runs: lint, types, import contracts, all tests
	$(PYTEST) -m "not long" --numprocesses 2 --dist loadfile --no-loadscope-reorder
	tests=$$($(PYTEST) -m long --collect-only | grep '::') && for test in $$tests; do $(PYTEST) "$$test" || exit 1; done

check: lint fast-tests ## the same without the tests that start a Ray cluster; under three minutes

lint: install ## ruff, pyright, import-linter; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

fix: install ## what ruff can correct by itself, and the format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install ## pyright alone; make types FILES=cli/launch.py checks one file
	$(BIN)/pyright $(FILES)

fast-tests: install
	$(PYTEST) --numprocesses auto --dist loadfile -m "$(FAST)"

coverage: install ## how much of the trainer its own tests reach without a GPU; fails under 90 per cent
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -q -m "not gpu" tests/nanochat
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

bench: install ## time of an optimizer step on this machine, each variant beside its control
	$(BIN)/python -m bench.step

fuzz: install ## damage a stored experiment in 100,000 places, and a checkpoint in 20,000, and read it after each; hours
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --mutations 100000 --seed $(SEED)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --mutations 20000 --seed $(SEED) --checkpoints

# Compiled on all cores, which pip does on one; some packages hold a file that is not meant to be Python.
install: $(INSTALLED) ## .venv with everything in it; does nothing if it is up to date

$(INSTALLED): pyproject.toml $(wildcard $(CONSTRAINTS)) | machine
	@echo "installing into $(VENV); the first time this takes some minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -qq --no-compile $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[dev]'
	@$(BIN)/python -m compileall -qq -j 0 -x /tests/ $(VENV)/lib nanochat sweeps cli scripts || true
	@touch $@

# torch.compile builds C++ against Python's headers on first use; better to hear of it before the install.
machine:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1); name another: make PYTHON=python3.12" >&2; \
	  exit 1; }
	@missing=; \
	command -v "$${CXX:-g++}" >/dev/null || missing="$$missing g++"; \
	test -f "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" || missing="$$missing python3-dev"; \
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	test -z "$$missing" || { \
	  echo "this machine lacks a C++ compiler, Python's headers or its venv module;" \
	    "on Debian or Ubuntu: sudo apt-get install$$missing" >&2; \
	  exit 1; }

constraints: | machine ## pin the newest versions that fit into constraints.txt
	rm -rf build/constraints && $(PYTHON) -m venv build/constraints
	build/constraints/bin/python -m pip install -q --upgrade pip
	build/constraints/bin/python -m pip install -q -e '.[dev]'
	{ sed -n '/^#/p' constraints.txt; \
	  build/constraints/bin/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//'; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

# Nothing of the checkout is on the path there: a module or a data file that the wheel lacks shows.
wheel: install ## build the wheel and try it in a new environment; part of docs/releasing.md
	rm -rf build/lib build/wheel dist && mkdir -p build/wheel  # what build/lib holds would come along
	$(PIP) wheel -q --no-deps --wheel-dir dist .
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip --disable-pip-version-check install -q $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) dist/*.whl
	cd build/wheel && env -u PYTHONPATH PATH="$$PWD/venv/bin:$$PATH" ../../.ci/try_wheel.sh

clean: ## remove what can be made again, .venv included; experiments stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
