# Thin verbs; what they do lives in the package and in tests/.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
DEMO ?= yes
VENV := .venv

.PHONY: help up demo pictures test test-fast test-browser conformance nightly bench lint types pages lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

up: $(VENV)/.run ## start everything on this machine (PORT=8000, DEMO=no to leave the demo out)
	@exec $(VENV)/bin/jitaccess up --host $(HOST) --port $(PORT) $(if $(filter no,$(DEMO)),--no-demo)

demo: $(VENV)/.run ## the whole loop, told in the terminal on a throwaway installation (FAST=yes: no pauses)
	@exec $(VENV)/bin/jitaccess demo $(if $(filter yes,$(FAST)),--fast)

test: $(VENV)/.peers ## the whole suite: lint, types, SQLite, PostgreSQL
	@$(VENV)/bin/python -m tests.run all

test-fast: $(VENV)/.dev ## under a minute: SQLite, no browser, no processes
	@$(VENV)/bin/python -m tests.run fast

test-browser: $(VENV)/.dev ## the browser tests; fails without Chromium
	@JITACCESS_TEST_BROWSER=1 $(VENV)/bin/python -m tests.run browser

pictures: $(VENV)/.dev ## every page in both themes, on a desk and a phone, checked whole and kept in test-artefacts/
	@JITACCESS_TEST_BROWSER=1 JITACCESS_PICTURES=$(CURDIR)/test-artefacts $(VENV)/bin/python -m pytest -q tests/pages

conformance: $(VENV)/.peers ## the official suite of the protocol, directly and through a gateway (PAGE=docs/conformance.md writes the page)
	@$(VENV)/bin/python -m tests.conformance $(if $(PAGE),--page $(PAGE))

nightly: $(VENV)/.peers ## hours: the long form of the property, fault and tamper tests, and the guarantees under load
	@$(VENV)/bin/python -m tests.run nightly

bench: $(VENV)/.dev ## the benchmarks: lists them; BENCH=all or BENCH="revoke --trials 1000" runs them
	@$(VENV)/bin/python -m bench $(BENCH)

lint: $(VENV)/.dev ## ruff, import-linter, migrations
	@$(VENV)/bin/python -m tests.run lint

types: $(VENV)/.dev ## mypy, strict
	@$(VENV)/bin/mypy jitaccess requests_app

pages: $(VENV)/.dev ## write anew what is generated: docs/openapi.yaml, docs/settings.md
	@$(VENV)/bin/python manage.py spectacular --file docs/openapi.yaml --validate --fail-on-warn
	@$(VENV)/bin/jitaccess settings --markdown > docs/settings.md

lock: ## renew the lock files (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra demo --group build pyproject.toml --output-file requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra demo --extra dev --group build pyproject.toml --constraints requirements.lock --output-file requirements-dev.lock

clean: ## remove the environment and everything under var/
	rm -rf $(VENV) var

$(VENV)/.run: requirements.lock pyproject.toml docker/environment.sh
	@PYTHON="$(PYTHON)" sh docker/environment.sh requirements.lock
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml docker/environment.sh
	@PYTHON="$(PYTHON)" sh docker/environment.sh requirements-dev.lock
	@touch $@ $(VENV)/.run

# Real servers and clients of the Node world, for the tests of the whole loop.
$(VENV)/.peers: $(VENV)/.dev tests/node/package-lock.json
	@$(VENV)/bin/python -m tests.peers
	@touch $@
