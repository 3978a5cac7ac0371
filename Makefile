# `make demo` and `make test` need Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test gate unit docs faults slow bench clean

help:
	@echo "make install   environment in .venv, from pinned versions"
	@echo "make demo      train and measure a one-step generator on real digits (under 9 minutes on 2 cores)"
	@echo "make test      gate and tests"
	@echo "make gate      ruff, mypy, import-linter and the docs site"
	@echo "make unit      the tests, without the gate"
	@echo "make docs      the docs site in build/site; a broken link or an unknown symbol fails it"
	@echo "make faults    kills every part of a run on clusters of several nodes (about 20 minutes)"
	@echo "make slow      the tests that take minutes"
	@echo "make bench     what each of SlimFlow's ideas brings, 3 seeds (about 20 minutes)"
	@echo "make clean     remove .venv and what was built"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("slimctl needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/slimctl submit configs/slimflow.yaml

test: install gate unit

gate: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory docs

# Not --quiet: that hides the warnings from --strict, too.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# As many workers as CPUs, four at most; all tests that start Ray go to one of them.
unit: install
	$(BIN)/pytest -m "not slow and not faults" -n logical --maxprocesses 4 --dist loadgroup \
	  --no-loadscope-reorder

faults: install
	$(BIN)/pytest -m faults

slow: install
	$(BIN)/pytest -m slow

bench: install
	$(BIN)/python -m benchmarks.slimflow_ideas

clean:
	rm -rf $(VENV) build *.egg-info
