# A fresh machine needs Python 3.11 or newer and make; everything else is installed into .venv.
PYTHON ?= python3
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
NOTEBOOK_TEXTS := $(wildcard notebooks/*.py)
BENCHMARKS := $(wildcard benchmarks/*.py)

# Two BLAS threads are many times slower than one on the small matrices of a layer.
export OPENBLAS_NUM_THREADS := 1
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1

.PHONY: help demo test lint pytest notebooks screenshots bench wheel clean distclean

help:
	@echo "make demo       install what the demo needs, run it, write report.html"
	@echo "make test       install everything, then lint, type-check and test, notebooks included"
	@echo "make lint       ruff, import directions, mypy"
	@echo "make pytest     the tests alone; choose some with PYTEST_ARGS='-k exact'"
	@echo "make notebooks  bring notebooks up to date with their text and execute them in place"
	@echo "make screenshots  photograph the README's opening picture; needs Chromium"
	@echo "make bench      run every benchmark"
	@echo "make wheel      build the distributions into dist/"
	@echo "make clean      remove what was built; make distclean removes .venv as well"

demo: $(VENV)/.demo-installed
	$(BIN)/python -m gbn.demo --report report.html

test: lint pytest
ifneq ($(NOTEBOOKS),)
	$(BIN)/pytest -n 2 -W default --nbmake $(NOTEBOOKS)
endif

lint: $(VENV)/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

pytest: $(VENV)/.test-installed
	$(BIN)/pytest -n 2 $(PYTEST_ARGS)

notebooks: $(VENV)/.test-installed
ifneq ($(NOTEBOOK_TEXTS),)
	$(BIN)/jupytext --to ipynb --update $(NOTEBOOK_TEXTS)
	$(BIN)/pytest -W default --nbmake --overwrite $(NOTEBOOK_TEXTS:.py=.ipynb)
endif

screenshots: $(VENV)/.test-installed
	$(BIN)/python notebooks/pictures/opening.py

bench: $(VENV)/.test-installed
	@set -e; for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script; done

wheel: $(VENV)/.test-installed
	$(BIN)/python -m build

clean:
	rm -rf build dist *.egg-info report.html .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find gbn converters tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "gbn needs Python 3.11 or newer, and '$(PYTHON)' is not one. Name one: make $(or $(MAKECMDGOALS),test) PYTHON=python3.12" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo-installed: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) -e ".[torch,sklearn,plot]"
	@touch $@

$(VENV)/.test-installed: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) -e ".[all,test]"
	@touch $@
