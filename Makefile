# Two commands do everything:  make tutorial  (install, then the guided tour)  and  make test.
# PYTHON names the interpreter the virtual environment is made from:  make tutorial PYTHON=python3.12
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip
# A worker a core, four at most (each holds a gigabyte); files stay whole, the longest first (tests/conftest.py).
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: tutorial test test-all test-grader test-models check portability lint lab book book-all wheel mutation clean
.DEFAULT_GOAL := tutorial

tutorial: .venv/base.stamp
	$(BIN)/dil tour

# Everything that is not marked slow.
test: .venv/test.stamp
	$(PYTEST) --durations 25

# What make test leaves out because it takes long: the book, browsers, kills, a class graded, studies on tiny models, random samples
# of long series (the seed is printed); then the core once more as other processors would compute it.
test-all: .venv/all.stamp
	$(PYTEST) -m slow --durations 10 tests notebooks
	$(BIN)/python tests/portability.py

# The series that make test-all samples, whole: every attack on the grader and a class of forty; every loss on a language model of
# known truth and every architecture.
test-grader: .venv/all.stamp .venv/mutation.stamp
	$(PYTEST) -m "slow or not slow" --whole tests/course
test-models: .venv/all.stamp
	$(PYTEST) -m "slow or not slow" --whole tests/experiments/test_known_truth.py tests/llm/test_architectures.py

# The derivation and the toy alone.
check: .venv/test.stamp
	$(PYTEST) $(addprefix tests/,derivation toy claims) $(addprefix dil_tutorial/,preferences.py rlhf.py bregman.py margins.py likelihoods.py losses.py) toy

# Everything cheap, notebooks too, under three instruction sets, one and two threads and another seed.
portability: .venv/test.stamp
	$(BIN)/python tests/portability.py --all

lint: .venv/lint.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

mutation: .venv/mutation.stamp
	$(BIN)/python benchmarks/mutation.py

lab: .venv/base.stamp
	$(BIN)/dil lab

book: .venv/test.stamp
	$(BIN)/dil dev book

# The site, PDF, EPUB, slides and the cheat sheet; needs chromium.
book-all: .venv/all.stamp
	$(BIN)/dil dev book --all

# With notebooks, recipes, results and assignments inside: pip install dist/*.whl, then dil lab, needs no clone.
wheel: .venv/test.stamp
	$(BIN)/dil dev wheel dist

clean:
	rm -rf outputs book/_build book/generated build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found: install Python 3.11 or newer, or set PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $$($(PYTHON) --version) is too old: install Python 3.11 or newer, or set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) has no venv module: install it (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv .venv

# Stamps make a second run skip the installation until the dependencies change.  CONSTRAINTS names the versions.
CONSTRAINTS ?= constraints.txt
.venv/base.stamp: .venv/bin/python pyproject.toml $(CONSTRAINTS)
	$(PIP) install -c $(CONSTRAINTS) --upgrade pip
	$(PIP) install -c $(CONSTRAINTS) -e .
	@touch $@

.venv/test.stamp: EXTRAS = llm,rewards,book,course,bench,dev
.venv/all.stamp: EXTRAS = llm,rewards,book,course,bench,dev,qlora,eval,browser
.venv/lint.stamp: EXTRAS = llm,lint
.venv/mutation.stamp: EXTRAS = llm,dev,mutation
.venv/test.stamp .venv/all.stamp .venv/lint.stamp .venv/mutation.stamp: .venv/base.stamp
	$(PIP) install -c $(CONSTRAINTS) -e '.[$(EXTRAS)]'
	@touch $@
