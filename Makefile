# Everything a fresh machine needs is Python (3.10 or newer) and make. `make` alone lists the targets.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PINS   := pyproject.toml constraints.txt hatch_build.py $(wildcard agent/native/*)
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-faults test-services lint format bench mlflow-ui docs clean distclean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  (PYTHON=python3.12 chooses the interpreter; ARGS='-k ring -x' goes to pytest, the benchmarks, the UI)"

venv: $(STAMPS)/base ## Create .venv and install tailrace into it

demo: $(STAMPS)/base ## Train on a real data set, logging every step; then show the run
	@$(BIN)/tailrace demo $(ARGS)

test: $(STAMPS)/test ## Run the default test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

# --tb=native: pytest's own excerpts of a failed test's source have crashed CPython 3.11.7 after ten minutes of faults.
test-faults: $(STAMPS)/test ## Run the long fault-injection tests
	$(BIN)/python -m pytest -m faults --tb=native $(ARGS)

test-services: $(STAMPS)/services ## Run the tests that need outside services (they skip with a reason without them)
	@tests/services/install.sh
	$(BIN)/python -m pytest -n 2 --dist loadfile -m services $(ARGS)

lint: $(STAMPS)/lint ## Check style, formatting, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMPS)/lint ## Mend style and formatting where a tool can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMPS)/test ## Measure the overhead, the delivery rate and the lag
	$(BIN)/python benchmarks/run.py $(ARGS)

mlflow-ui: $(STAMPS)/base ## Open MLflow's UI on the configured store, on the next free port
	@$(BIN)/tailrace ui $(ARGS)

docs: $(STAMPS)/docs ## Build the API reference from the docstrings into site/
	$(BIN)/pdoc --docformat google --output-directory site tailrace tailrace._artifacts tailrace_agent
	@echo "Open site/index.html"

clean: ## Remove caches and build outputs; keeps the venv, and every run (mlflow.db, mlruns)
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage htmlcov
	find . -path './$(VENV)' -prune -o -path ./.git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## Remove the venv too; still keeps every run
	rm -rf $(VENV)

# Each stamp says that one set of packages is installed as pyproject.toml and constraints.txt ask for it.

$(STAMPS)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "tailrace needs Python 3.10 or newer as '$(PYTHON)'; choose one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
		|| { echo "'$(PYTHON)' has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS)
	@touch $@

$(STAMPS)/base: $(PINS) | $(STAMPS)/python
	@echo "Installing tailrace into $(VENV)"
	@$(PIP) -e .
	@touch $@

$(STAMPS)/test: $(STAMPS)/base
	@echo "Installing what the tests need"
	@$(PIP) -e '.[test]'
	@touch $@

$(STAMPS)/services: $(STAMPS)/test
	@echo "Installing what the tests of services need"
	@$(PIP) -e '.[services]'
	@touch $@

# The types of what the tests need are checked against, too.
$(STAMPS)/lint: $(STAMPS)/test
	@echo "Installing what the checks need"
	@$(PIP) -e '.[lint]'
	@touch $@

$(STAMPS)/docs: $(STAMPS)/base
	@echo "Installing what the docs need"
	@$(PIP) -e '.[docs]'
	@touch $@
