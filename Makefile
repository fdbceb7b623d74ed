# The project's commands. `make demo` and `make test` are the two a newcomer needs;
# both set up whatever is missing first, and need a network only the first time.

VENV ?= .venv
PORT ?= 8080
DATA ?= .citemesh
EXTRAS ?= all,dev
TESTS ?= tests
PYTEST ?=
# Many tests wait for processes; a part of the suite is not worth a second interpreter.
WORKERS ?= $(if $(filter tests,$(TESTS)),2,0)
SCALE ?=
ROUNDS ?= 10
DOCUMENTS ?= 300
SEED ?= 1
DIR ?= ../shared/data/messy
FUZZ ?= 0
SHORT ?=
FAULTS ?=
PAGES ?= 0
SCENARIO ?= peak
OVERLOAD ?=
PODS ?=
CHAOS ?=
ROLLING ?=
LOAD ?=

# Absolute, so that a program started by a target finds its siblings wherever it works.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONNOUSERSITE := 1

# What is installed is named by what it was installed from; an editable install also
# knows its folder. A touched but unchanged pyproject.toml installs nothing.
fingerprint := $(shell { cat pyproject.toml hatch_build.py; echo "$(CURDIR) $(EXTRAS)"; } | cksum | tr ' ' '-')
INSTALLED := $(VENV)/.installed-$(fingerprint)
STUBS := $(VENV)/.stubs
# Helm as a library; nothing of the project, which is why it is an environment of its own.
K8S_VENV ?= .venv-k8s
K8S_INSTALLED := $(K8S_VENV)/.installed-$(shell cksum < k8s/requirements.txt | tr ' ' '-')
CONTRACTS := $(shell find protos -name '*.proto') protos/compile.py

.DEFAULT_GOAL := help
.PHONY: help demo test up check format protos release-protos docs bench chaos chaos-ingest messy live clean bench-scale load overload faults bench-providers

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile

demo: $(INSTALLED) $(STUBS) ## start everything, load the samples, ask one question, keep the console running
	@exec $(VENV)/bin/python -m tools.demo --port $(PORT)

test: $(INSTALLED) $(STUBS) ## run every test; TESTS=path and PYTEST=options narrow it
	$(VENV)/bin/python -m pytest -n $(WORKERS) $(TESTS) $(PYTEST)

up: $(INSTALLED) $(STUBS) ## the mesh without the samples, on PORT, with its data in DATA
	@exec $(VENV)/bin/citemesh up --port $(PORT) --data $(DATA)

check: $(INSTALLED) $(STUBS) ## format, lint, types, contracts, imports, secrets, dependencies, docs
	$(VENV)/bin/python -m tools.check

format: $(INSTALLED) ## write the format that `make check` asks for
	$(VENV)/bin/ruff check --fix-only --quiet .
	$(VENV)/bin/ruff format --quiet .
	$(VENV)/bin/buf format --write protos

protos: $(INSTALLED) ## compile the contracts into libs/citemesh
	$(VENV)/bin/python protos/compile.py stubs
	@touch $(STUBS)

release-protos: $(INSTALLED) ## make the contracts of today the ones that may not be broken
	$(VENV)/bin/python -m tools.contracts release

docs: $(INSTALLED) $(STUBS) ## write the pages that are made from code
	$(VENV)/bin/python -m tools.configuration --write
	$(VENV)/bin/python -m tools.errors --write
	$(VENV)/bin/python -m tools.telemetry --write
	$(VENV)/bin/python -m tools.k8s.variables --write
	$(VENV)/bin/python -m tools.k8s.postgres --write

bench-scale: $(INSTALLED) $(STUBS) ## the dense index at 10,000 and 100,000 chunks with 1, 100 and 1,000 projects; SCALE=options
	$(VENV)/bin/python -m loadtest.scale $(SCALE)

overload: $(INSTALLED) $(STUBS) ## find the knee, then offer 1x, 2x and 3x of it by open arrivals; SHORT=1 in two minutes
	$(VENV)/bin/python -m loadtest.overload $(if $(SHORT),--short) $(OVERLOAD)

load: $(INSTALLED) $(STUBS) ## SCENARIO= against the simulator, SHORT=1 in minutes; writes HTML and JSON to reports/
	$(VENV)/bin/python -m loadtest.load $(SCENARIO) $(if $(SHORT),--short) $(LOAD)

.PHONY: calibrate
calibrate: $(INSTALLED) $(STUBS) ## what the signals behind an answer are worth for the models of the mesh in DATA; DIR= data sets
	$(VENV)/bin/python -m loadtest.calibrate $(DIR) --data $(DATA) --write

bench: $(INSTALLED) $(STUBS) ## measure search, answers and ingestion against their floors
	$(VENV)/bin/python -m loadtest.bench

messy: $(INSTALLED) $(STUBS) ## what becomes of each file in DIR=; FUZZ= broken copies and a PDF of PAGES= pages besides
	$(VENV)/bin/python -m loadtest.messy $(DIR) --fuzz $(FUZZ) --seed $(SEED) --pages $(PAGES)

chaos: $(INSTALLED) $(STUBS) ## every part of the mesh is killed, frozen, cut off, under load; SHORT=1 a dozen cases
	$(VENV)/bin/python -m tests.chaos $(if $(SHORT),--short) $(CHAOS)

.PHONY: rolling-restart
rolling-restart: $(INSTALLED) $(STUBS) ## two processes of each service, all replaced one by one under load; ROLLING=options
	$(VENV)/bin/python -m tests.rolling $(ROLLING)

chaos-ingest: $(INSTALLED) $(STUBS) ## ROUNDS= rounds of DOCUMENTS= uploads while services and Postgres are killed and frozen
	$(VENV)/bin/python -m loadtest.chaos_ingest --rounds $(ROUNDS) --documents $(DOCUMENTS) --seed $(SEED)

bench-providers: $(INSTALLED) $(STUBS) ## what the way to a provider costs over its bare SDK, at a simulator without latency
	$(VENV)/bin/python -m loadtest.bench.providers $(if $(SHORT),--rounds 40)

faults: $(INSTALLED) $(STUBS) ## every fault at every provider, as callers of a real mesh see it; SHORT=1 a handful
	$(VENV)/bin/python -m loadtest.faults $(if $(SHORT),--short) $(FAULTS)

breaker-simulation: $(INSTALLED) $(STUBS) ## both circuit breaker ladders, lived through on a fake clock
	$(VENV)/bin/python -m loadtest.breaker_simulation

live: $(INSTALLED) $(STUBS) ## a handful of calls to the real APIs of providers whose keys are set
	$(VENV)/bin/python -m tools.live

.PHONY: traces bench-telemetry
traces: $(INSTALLED) $(STUBS) ## Phoenix in an environment of its own, and a mesh on PORT that sends its traces there
	@exec $(VENV)/bin/python -m tools.traces --port $(PORT) --data $(DATA)

bench-telemetry: $(INSTALLED) $(STUBS) ## throughput with telemetry (10 % of the traces) against none; SHORT=1 for a look
	$(VENV)/bin/python -m loadtest.bench.telemetry $(if $(SHORT),--short)

.PHONY: k8s
k8s: $(K8S_INSTALLED) ## render the chart into k8s/manifests, after its derived files
	$(K8S_VENV)/bin/python -m tools.k8s.render

.PHONY: k8s-check
k8s-check: $(INSTALLED) $(STUBS) $(K8S_INSTALLED) ## lint, schemas, policies, call graph, settings and drift of the chart, without a cluster
	$(K8S_VENV)/bin/python -m tools.k8s.check --python $(VENV)/bin/python

.PHONY: pods
pods: $(INSTALLED) $(STUBS) $(K8S_INSTALLED) ## the chart's mesh as podman containers: upload, ask, kill a replica, roll a service; PODS=options
	$(VENV)/bin/python -m tools.pods --helm $(K8S_VENV)/bin/python $(PODS)

clean: ## remove what was built; the data of a mesh stays
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -rf $(VENV) $(K8S_VENV) libs/citemesh/*/
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED):
	@PYTHON="$(PYTHON)" sh tools/environment.sh $(VENV) $@ $(EXTRAS)

$(K8S_INSTALLED): k8s/requirements.txt
	@PYTHON="$(PYTHON)" sh tools/environment.sh $(K8S_VENV) $@ $<

# The install has compiled the contracts already when it is the newer one; the rule
# costs two seconds then and keeps one truth about what is current.
$(STUBS): $(INSTALLED) $(CONTRACTS)
	@$(VENV)/bin/python protos/compile.py stubs
	@touch $@
