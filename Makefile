# Everything a checkout needs sets itself up in .venv; nothing outside it is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
SOURCES := dsv4_agent tools model prompts tests bench

.DEFAULT_GOAL := help
.PHONY: help demo test slow ray lint format bench interop clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.local  ## Watch the built-in model rename a function and repair a failing test
	@$(BIN)/dsv4 demo

test: lint  ## Lint, then run the tests
	$(BIN)/python -m pytest -m "not slow"

slow: $(VENV)/.dev  ## Run the slow tests
	$(BIN)/python -m pytest -m slow

ray: $(VENV)/.dev  ## Install Ray and run batches on a cluster of two nodes
	$(PIP) --editable '.[ray]'
	$(BIN)/python -m pytest tests/batch/test_ray.py

lint: $(VENV)/.dev  ## Check style, types and layers
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## Rewrite the sources in the project's style
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/.dev  ## Run the benchmarks
	@echo "== bench/engine"; $(BIN)/python -m bench.engine
	@for file in bench/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

interop: $(VENV)/.dev  ## Try other people's servers and agents (bench/interop/peers.py)
	$(BIN)/python -m bench.interop --log bench/results/interop.log

clean:  ## Remove the environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dsv4 needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

# torch comes first and by exact version, so that no other package's range pulls in a larger build.
$(VENV)/.local: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) --editable '.[local]'
	@touch $@

$(VENV)/.dev: $(VENV)/.local
	$(PIP) --editable '.[dev]'
	@touch $@
