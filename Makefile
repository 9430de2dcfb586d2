# Two commands do everything:  make tutorial  (install, then the guided tour)  and  make test.
# PYTHON names the interpreter the virtual environment is made from:  make tutorial PYTHON=python3.12
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip

.PHONY: tutorial test lab book lint mutation clean
.DEFAULT_GOAL := tutorial

tutorial: .venv/base.stamp
	$(BIN)/dil tour

test: .venv/full.stamp
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/full.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

mutation: .venv/full.stamp
	$(BIN)/python benchmarks/mutation.py

lab: .venv/base.stamp
	$(BIN)/dil lab

book: .venv/full.stamp
	$(BIN)/dil book

clean:
	rm -rf outputs book/_build book/generated build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found: install Python 3.11 or newer, or set PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $$($(PYTHON) --version) is too old: install Python 3.11 or newer, or set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) has no venv module: install it (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv .venv

# Stamps make a second run skip the installation until the dependencies change.
.venv/base.stamp: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt --upgrade pip
	$(PIP) install -c constraints.txt -e .
	@touch $@

.venv/full.stamp: .venv/base.stamp
	$(PIP) install -c constraints.txt -e '.[llm,qlora,eval,book,course,bench,dev]'
	@touch $@
