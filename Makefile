# Everything here works from a fresh clone: the first target that needs it makes .venv from constraints.txt.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install demo test lint calibrate benchmark build clean

help: ## Show what there is to make
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)$$/  make \1\t\2/' | expand -t 20

install: $(STAMP) ## Make .venv with midguard and everything it is developed with

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "midguard needs Python 3.11: install it, or say which one with make PYTHON=..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@.dev/pango $(BIN)/python
	touch $@

demo: $(STAMP) ## Train a careless and a careful model, check both, leave two signed reports
	$(BIN)/midguard demo --out midguard-demo

test: $(STAMP) ## Run the tests and hold their coverage
	rm -f .coverage .coverage.*
	OMP_NUM_THREADS=1 $(PYTEST) -m 'not calibrate' --cov --cov-report=
	$(BIN)/coverage report --fail-under=90 --skip-covered

lint: $(STAMP) ## Types, style, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

calibrate: $(STAMP) ## The long statistical checks: false alarms, false passes, the demo over 20 seeds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m calibrate -s

benchmark: $(STAMP) ## Throughput of reference training, and the attacks beside loss alone (for the peers see benchmarks/membership.py)
	$(BIN)/python benchmarks/references.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/membership.py --without-peers

build: $(STAMP) ## Build the wheel and the source distribution
	$(BIN)/python -m pip install --quiet --constraint constraints.txt build
	$(BIN)/python -m build

clean: ## Take away what was made, .venv included
	rm -rf $(VENV) build dist .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache midguard-demo
