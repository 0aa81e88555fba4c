# Two commands on a fresh machine: `make demo` and `make test`. Each makes first what it needs and
# is not up to date: .venv, the pinned requirements, the native libraries, the editable package.
#
#   PYTHON=python3.12   the interpreter that makes .venv      (python3)
#   ARGS="-k codec"     passed on to pytest, the demo, …
#   FXMEM_CUDA=0|1      leave out or demand the CUDA kernels  (built where nvcc is found)

PYTHON ?= python3
ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python
NATIVE := CMakeLists.txt $(shell find native -type f)
CXX_SOURCES = $(filter-out native/generated/%,$(filter %.h %.cpp %.cu %.cuh,$(NATIVE))) tests/ops/emulator.h

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv build demo test lint format wheel bench clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: build $(VENV)/demo.stamp ## train a small language model under eager, Inductor and fxmem
	$(RUN) -m fxmem demo $(ARGS)

test: lint build $(VENV)/test.stamp ## lint, build (CUDA too, where nvcc is found), run the tests
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal $(ARGS)

lint: $(VENV)/test.stamp ## ruff and clang-format, changing nothing
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(CXX_SOURCES)

format: $(VENV)/test.stamp ## let ruff and clang-format rewrite what they can
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .
	$(VENV)/bin/clang-format -i $(CXX_SOURCES)

bench: build $(VENV)/bench.stamp ## measure whatever the README and docs give figures of (hours)
	for name in codec stack models sharpness activation few_bit eager norms linear loss \
	    reversible drift integer integer_training convergence; do \
	  $(RUN) benchmarks/$$name.py $(ARGS) || exit 1; done

wheel: $(VENV)/test.stamp ## one wheel for every Python and torch, into dist/
	$(RUN) -m build --wheel --no-isolation

venv: $(VENV)/base.stamp ## .venv with the pinned torch, numpy and sympy

build: $(VENV)/fxmem.stamp $(VENV)/native.stamp ## the native libraries and the editable package

clean: ## remove what was built, but not .venv
	rm -rf build dist fxmem/lib *.egg-info .pytest_cache .ruff_cache
	rm -f $(VENV)/native.stamp

# Each check ends in the sentence that a person without it needs. Inductor, not fxmem, compiles
# against Python.h.
$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo 'Python 3.10 or later is needed: make PYTHON=python3.12'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || \
	  { echo 'This Python cannot make a .venv (on Debian: apt-get install python3-venv)'; exit 1; }
	@$(PYTHON) -c 'import sys, sysconfig; from pathlib import Path; \
	  sys.exit(not Path(sysconfig.get_path("include"), "Python.h").exists())' || \
	  { echo 'torch.compile needs Python.h (on Debian: apt-get install python3-dev)'; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/base.stamp: requirements/base.txt | $(RUN)
$(VENV)/demo.stamp: requirements/demo.txt $(VENV)/base.stamp
$(VENV)/test.stamp: requirements/test.txt $(VENV)/demo.stamp
$(VENV)/bench.stamp: requirements/bench.txt $(VENV)/demo.stamp
$(VENV)/%.stamp: requirements/%.txt
	$(RUN) -m pip install -r $<
	@touch $@

# Before the install, which hides what the compiler says.
$(VENV)/native.stamp: setup.py $(NATIVE) $(VENV)/base.stamp
	$(RUN) setup.py --quiet build_ext --inplace
	@touch $@

$(VENV)/fxmem.stamp: setup.py pyproject.toml $(VENV)/base.stamp | $(VENV)/native.stamp
	$(RUN) -m pip install --no-build-isolation --no-deps --editable .
	@touch $@
