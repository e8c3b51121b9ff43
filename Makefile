# Everything here works from a clean clone with Python >= 3.11, make and git; the first target makes .venv.

PYTHON ?= python3
PORT ?= 8700
NAME ?=

BIN := .venv/bin
SETUP := @$(PYTHON) -I scripts/setup.py

# Without bytecode every start of a Python would take twice as long; the other two would let a foreign environment in.
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH VIRTUAL_ENV
export PORT

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint format bench docs docs-check wheels lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Make .venv with everything the other targets need
	$(SETUP) dev

demo: ## Start the chat gateway with its plugins (PORT=8700)
	$(SETUP) demo
	@exec $(BIN)/python -m examples.gateway

test: ## Run all checks and all tests but the long ones (under 15 minutes)
	$(SETUP) dev
	@$(BIN)/python scripts/run_gate.py

test-all: ## The same with the long runs: chaos, kill -9, soak
	$(SETUP) dev
	@$(BIN)/python scripts/run_gate.py --slow

lint: ## Run the checks that need no test run: ruff, mypy, layers, dependencies, docs
	$(SETUP) dev
	@$(BIN)/python scripts/run_gate.py --lint-only

format: ## Lay the code out, and mend what ruff can mend
	$(SETUP) dev
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

bench: ## Measure beside the references (NAME=call for one)
	$(SETUP) dev
	@$(BIN)/python -m benchmarks $(NAME)

docs: ## Write the generated pages
	$(SETUP) dev
	@$(BIN)/python scripts/generate_docs.py

docs-check: ## Check generated pages and links
	$(SETUP) dev
	@$(BIN)/python scripts/generate_docs.py --check

wheels: ## Build both packages into dist/ and try them without the repository
	$(SETUP) dev
	@$(BIN)/python scripts/build_wheels.py

lock: ## Renew requirements/lock.txt with the newest versions
	$(SETUP) lock

clean: ## Remove everything that make made
	rm -rf .venv .setup.lock dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage htmlcov
	find . -name node_modules -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
