PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test check format clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## / — /'

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)  ## the main job on real photos, ending in a report to open
	rm -rf demo
	$(BIN)/vidrisk demo -o demo

test: $(STAMP) check  ## everything: lint, types, imports, docs, all tests with coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --format=total | sed 's/^/coverage: /; s/$$/ %/'

check: $(STAMP)  ## ruff, mypy --strict, the one-way import rule, docs against the code
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q -m 'not slow' tests/test_rooms.py tests/test_docs.py

format: $(STAMP)  ## mend what ruff can mend, and write the README's tables from the benchmarks' JSON
	$(BIN)/ruff check --fix .
	$(BIN)/python benchmarks/tables.py

clean:  ## remove the virtual environment and all caches
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
