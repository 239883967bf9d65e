# Two commands do everything from a fresh clone that has git, Python >= 3.11, make and a compiler:
#
#   make demo    environment, sample images, pack, verify, unpack, compare, and a table of what was saved
#   make test    environment, linters, types, import borders and the whole test suite
#
# Others: env, lint, check (lint and the quick tests), docs-check, clean.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=

BIN := $(VENV)/bin
# The stamp is newer than what it was made from, or the environment is brought up to date.
STAMP := $(VENV)/.callic-archive-installed

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help env demo test lint pytest check docs-check clean

# $(call timed,NAME,COMMAND) runs COMMAND and says how long NAME took, whether it succeeded or not.
timed = @start=$$(date +%s); rc=0; { $(2); } || rc=$$?; echo "-- $(1): $$(($$(date +%s) - start)) s"; exit $$rc

help:
	@sed -n '/^#/s/^# \{0,1\}//p;/^$$/q' Makefile

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; this is " + sys.version + ". Try: make PYTHON=/path/to/python3.11")'
	$(call timed,environment, \
	    { test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); } \
	    && $(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools \
	    && $(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[demo,test]' \
	    && touch $(STAMP))

demo: $(STAMP)
	$(call timed,demo,$(BIN)/python pipelines/demo.py)

test: lint pytest

lint: $(STAMP)
	$(call timed,ruff,$(BIN)/ruff check .)
	$(call timed,mypy,$(BIN)/mypy)
	$(call timed,import-linter,$(BIN)/lint-imports)

pytest: $(STAMP)
	$(call timed,pytest,$(BIN)/python -m pytest $(PYTEST_ARGS))

check: lint
	$(call timed,quick tests,$(BIN)/python -m pytest -m "not slow and not cluster" $(PYTEST_ARGS))

docs-check: $(STAMP)
	$(call timed,docs,$(BIN)/python -m pytest tests/architecture/test_docs.py $(PYTEST_ARGS))

clean:
	rm -rf demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
