# make demo: the whole offline study, report included. make test: everything is tested. Both set up what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Absolute, because sub-shells and Ray's workers start elsewhere.
export PATH := $(abspath $(BIN)):$(PATH)
export RAY_DISABLE_IMPORT_WARNING := 1
# Compiled once: else each of the many processes of a study compiles the package again, for a second of its CPU.
export PYTHONDONTWRITEBYTECODE :=
DEMO_STORAGE ?= runs/demo
DEMO_OPTIONS ?=
STORAGE ?= runs/paper

.PHONY: help install install-test install-dev lint types test demo report clean

help:
	@echo 'make demo      the offline study and its report, in $(DEMO_STORAGE); DEMO_OPTIONS="--sizes 8 --seeds 0" for a part'
	@echo 'make test      all tests'
	@echo 'make lint      ruff; make types: mypy'
	@echo 'make report    the report on STORAGE (now $(STORAGE))'
	@echo 'make install   the virtual environment $(VENV); also install-test, install-dev'
	@echo 'make clean     removes it'

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test
install-dev: $(VENV)/.installed-dev

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=python3.x") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing into $(VENV): minutes, and on Linux gigabytes'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing into $(VENV): minutes, and on Linux gigabytes'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,images]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing into $(VENV): minutes, and on Linux gigabytes'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.installed $(VENV)/.installed-test

# The study and its report; the time is without the installation.
demo: install
	$(BIN)/python experiments/demo.py --storage $(DEMO_STORAGE) $(DEMO_OPTIONS)

# Three processes; what starts Ray goes to two of them: more Rays on few cores run into each other's time limits (tests/conftest.py).
test: install-test
	$(BIN)/python -m pytest --numprocesses 3 --no-loadscope-reorder

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install-dev
	$(BIN)/mypy

report: install
	$(BIN)/python -m analysis.report --results $(STORAGE)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
