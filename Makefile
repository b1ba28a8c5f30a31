# Everything a fresh machine needs is Python (3.10 or newer) and make. `make` alone lists the targets.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
TOOLS  := .venv-tools
PINS   := pyproject.toml constraints.txt hatch_build.py $(wildcard agent/native/*)
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help venv venv-locked demo test test-slow test-faults test-sim test-services lint format bench mlflow-ui docs \
        wheels sbom audit lock clean distclean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  (PYTHON=python3.12 chooses the interpreter; ARGS='-k ring -x' goes to pytest, the benchmarks, the UI)"

venv: $(STAMPS)/base ## Create .venv and install tailrace into it

# --no-deps: the lock has all of them, except torch, of which there is another build for each kind of machine.
venv-locked: | $(STAMPS)/python ## The same for tests, checks and docs, each package (torch aside) checked against its hash
	$(PIP) --no-deps --require-hashes -r requirements.lock
	$(PIP) torch
	$(PIP) --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
	@touch $(STAMPS)/base $(STAMPS)/test $(STAMPS)/services $(STAMPS)/lint $(STAMPS)/docs

demo: $(STAMPS)/base ## Train on a real data set, logging every step; then show the run
	@$(BIN)/tailrace demo $(ARGS)

test: $(STAMPS)/test ## Run the default test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-slow: $(STAMPS)/test ## Run the tests that take seconds each, mostly with whole programs; as CI does
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'slow and not services and not faults' $(ARGS)

# --tb=native: pytest's own excerpts of a failed test's source have crashed CPython 3.11.7 after ten minutes of faults.
test-faults: $(STAMPS)/test ## Run the long fault-injection tests
	$(BIN)/python -m pytest -m faults --tb=native $(ARGS)

test-sim: $(STAMPS)/test ## Simulate the whole path from seed SEED on, N seeds or until Ctrl-C; a failure is shrunk
	PYTHONPATH=tests $(BIN)/python -m simulation $(or $(SEED),0) $(N)

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

# A link or an anchor that leads nowhere ends it (under --quiet it would not: MkDocs counts what it says).
docs: $(STAMPS)/docs ## Build the site into site/; ARGS=serve shows it while you write
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(or $(ARGS),build) --strict
	@$(if $(ARGS),,echo "Open site/index.html; its search works with: make docs ARGS=serve")

wheels: $(TOOLS)/.stamp ## Build the wheels that are published into dist/, and send a run through each
	$(TOOLS)/bin/python tools/wheels.py $(ARGS)

sbom: $(TOOLS)/.stamp ## Write what tailrace brings along into dist/tailrace.cdx.json (CycloneDX)
	rm -rf build/sbom
	mkdir -p dist
	$(PYTHON) -m venv --without-pip build/sbom
	$(TOOLS)/bin/python -m pip --python build/sbom/bin/python install --quiet -c constraints.txt .
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o dist/tailrace.cdx.json build/sbom

audit: $(TOOLS)/.stamp ## Ask a public service about known vulnerabilities of everything that is pinned
	$(TOOLS)/bin/python tools/audit.py

# uv answers for all Pythons and systems at once, so pins that one of them cannot have are found here.
LOCK := $(TOOLS)/bin/uv pip compile --quiet --universal --generate-hashes --no-annotate --custom-compile-command 'make lock'
lock: $(TOOLS)/.stamp ## Write the hashes of constraints.txt into requirements.lock, and pin the tools of the release anew
	$(LOCK) --python-version 3.10 --all-extras -c constraints.txt --override tools/lock-overrides.txt \
		-o requirements.lock pyproject.toml
	$(LOCK) --python-version 3.11 -o tools/requirements.txt tools/requirements.in

clean: ## Remove caches and build outputs; keeps the venv, and every run (mlflow.db, mlruns)
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage htmlcov
	find . -path './$(VENV)' -prune -o -path './$(TOOLS)' -prune -o -path ./.git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## Remove the venv too; still keeps every run
	rm -rf $(VENV) $(TOOLS)

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
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11, 5))' \
		|| { echo "the site needs Python 3.11.5 or newer: make PYTHON=python3.12 docs" >&2; exit 1; }
	@echo "Installing what the docs need"
	@$(PIP) -e '.[docs]'
	@touch $@

$(TOOLS)/.stamp: tools/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "the tools of the release need Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tools/requirements.txt
	@touch $@
