# One word runs each gate; CI runs the same words. Everything is set up in .venv, nothing by hand.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test prove chaos lint format docs clean

demo: $(READY)
	$(BIN)/danqing demo

test: $(READY)
	$(BIN)/pytest -n 2 --dist worksteal -m "not prove" tests

prove: $(READY)
	$(BIN)/pytest -m prove tests

# Longer than any gate: so many seeds of the fault harness, from this one on.
N ?= 1000
SEED ?= 1
chaos: $(READY)
	$(BIN)/python -m tests.chaos.series $(N) $(SEED)

lint: $(READY)
	$(BIN)/ruff check toolkit tests tools
	$(BIN)/ruff format --check toolkit tests tools
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix toolkit tests tools
	$(BIN)/ruff format toolkit tests tools

docs: $(READY)
	$(BIN)/python tools/docs

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
