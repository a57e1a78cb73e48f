# consent-gateway: `make demo` shows the main job, `make test` runs the tests. Both install what they need into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=

.PHONY: demo test check wheel bench clean help

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

demo: $(STAMP) ## the main job on this machine: real calls, speech, SMS codes, webhooks (ARGS=--keep leaves it running)
	$(BIN)/consent-gateway demo $(ARGS)

test: $(STAMP) ## all tests, with coverage
	$(BIN)/python -m pytest --cov --cov-report=term $(ARGS)

check: $(STAMP) ## ruff, mypy --strict, import-linter, dialplan lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/consent-gateway dialplan lint

wheel: $(STAMP) ## a wheel in dist/, with prompts and dialplans in it
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	$(BIN)/python tests/check_wheel.py dist/*.whl

bench: $(STAMP) ## INVITE to 200, speech to next prompt, SMS to webhook
	$(BIN)/consent-gateway bench turn $(ARGS)

$(STAMP): pyproject.toml tests/setup.sh
	sh tests/setup.sh $(PYTHON) $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,dev]'
	touch $@

clean: ## remove what was installed and made here
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .coverage .hypothesis .import_linter_cache
