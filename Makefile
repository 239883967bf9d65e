# Two commands do everything from a fresh clone that has git, Python >= 3.11, make and a compiler:
#
#   make demo    environment, sample images, pack, verify, unpack, compare, and a table of what was saved
#   make test    environment, linters, types, import borders and the whole test suite
#
# Others: env, lint, check (lint and the quick tests), docs (makes the pages made from code), docs-check, clean.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=

BIN := $(VENV)/bin
# The stamp is newer than what it was made from, or the environment is brought up to date.
STAMP := $(VENV)/.callic-archive-installed

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help env demo test lint pytest check docs docs-check clean

help:
	@sed -n '/^#/s/^# \{0,1\}//p;/^$$/q' Makefile

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Python 3.11 or newer is needed; $(PYTHON) is older. Try: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@.ci/stage environment .ci/environment $(PYTHON) $(VENV)
	@touch $(STAMP)

demo: $(STAMP)
	@.ci/stage "demo" $(BIN)/python -m pipelines.demo

test: lint pytest

lint: $(STAMP)
	@.ci/stage "ruff" $(BIN)/ruff check .
	@.ci/stage "mypy" $(BIN)/mypy
	@.ci/stage "import-linter" $(BIN)/lint-imports

pytest: $(STAMP)
	@.ci/stage "pytest" $(BIN)/python -m pytest $(PYTEST_ARGS)

check: lint
	@.ci/stage "quick tests" $(BIN)/python -m pytest -m "not slow and not cluster" $(PYTEST_ARGS)

docs: $(STAMP)
	@$(BIN)/python -m pipelines.generated_docs

docs-check: $(STAMP)
	@.ci/stage "docs" $(BIN)/python -m pytest tests/architecture/test_docs.py $(PYTEST_ARGS)

clean:
	rm -rf demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
