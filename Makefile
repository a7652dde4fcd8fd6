# On a new machine, each target needs Python 3.11 or later, and makes the environment `.venv` first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS := $(VENV)/.docs
RELEASE := .venv-release
# Most tests wait for servers most of the time; a file's tests stay together, as they share what they start.
TEST := $(BIN)/python -m pytest -p no:benchmark -n 4 --dist loadfile --no-loadscope-reorder

# The tests start hundreds of Python processes, which would each compile every module.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := demo
.PHONY: agentdojo agents demo busy console screenshots docs test test-slow test-fast test-pure nightly bench bench-growth bench-service bench-all bench-audit bench-console bench-kill bench-kill-gateway bench-gateway bench-memory bench-marks bench-people bench-run bench-mint routes adapters afternoon compare contract login pages clients operations deciders models mutants fuzz conformance typescript rehearse failovers wheels image packages packages-try release vulnerabilities workflows try-release check clean help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-18s %s\n", $$1, $$2 }' Makefile

demo: $(READY)  ## the whole job and the attacks on it, marks, a poisoned memory, a coding agent, then the gateway and a stock MCP client, with real processes
	@$(BIN)/arx demo job
	@$(BIN)/arx demo marks
	@$(BIN)/arx demo memory
	@$(BIN)/arx demo run
	@$(BIN)/arx demo gateway

busy: $(READY)  ## a realm with a busy history, until Ctrl-C: something to look at; ARGS="--rate 100" for more decisions a second
	@$(BIN)/python examples/busy_realm.py $(ARGS)

test: $(READY)  ## the tests, without those that take many seconds
	$(TEST) -m "not slow and not nightly" $(ARGS)

test-slow: $(READY)  ## the tests that take many seconds; ARGS='-m "slow and not nightly"' for those of .ci/run
	$(TEST) -m "slow or nightly" $(ARGS)

test-fast: $(READY)  ## the tests of verifier, agent, bridge, audit log and layout that start no server
	$(TEST) tests/verifier tests/vectors tests/agent tests/connect tests/audit tests/house -m "not servers and not install and not long and not slow and not nightly" $(ARGS)

nightly: $(READY)  ## what takes too long for every change: processes killed while they decide, simulated worlds
	.ci/nightly

test-pure: $(READY)  ## the tests of verifier and agent, without what is compiled
	ARX_PURE=1 $(TEST) tests/verifier tests/advisories tests/agent $(ARGS)

bench: $(READY)  ## a decision beside its peers
	$(BIN)/python -m benchmarks.bench $(ARGS)
	$(BIN)/python -m tests.typescript.speed

bench-growth: $(READY)  ## a decision as tokens, rules and kills grow
	$(BIN)/python -m benchmarks.growth $(ARGS)

bench-service: $(READY)  ## a guarded service against one without
	$(BIN)/python -m benchmarks.service $(ARGS)

bench-memory: $(READY)  ## stamps of memory entries, and their checks
	$(BIN)/python -m benchmarks.stamps $(ARGS)

bench-people: $(READY)  ## calls of the gateway with a person's credential, beside a fixed one
	$(BIN)/python -m benchmarks.people $(ARGS)

bench-run: $(READY)  ## calls and pushes under `arx run`, beside the same ones without it
	$(BIN)/python -m benchmarks.run $(ARGS)

bench-marks: $(READY)  ## calls that rows about marks name, beside calls with a budget
	$(BIN)/python -m benchmarks.marks $(ARGS)

bench-all: bench bench-growth bench-service  ## the three above

bench-audit: $(READY)  ## the audit log
	$(BIN)/python -m benchmarks.audit $(ARGS)

bench-console: $(READY)  ## the console's pages over a large log, and its live viewers; ARGS="--records 10000000"
	$(BIN)/python -m benchmarks.console $(ARGS)
	$(BIN)/python -m benchmarks.console_sessions
	$(BIN)/python -m benchmarks.console_kills

bench-mint: $(READY)  ## the mint under load
	$(BIN)/python -m benchmarks.mint $(ARGS)

bench-gateway: $(READY)  ## what the gateway adds to a call, beside FastMCP's proxy, ContextForge and Caddy; its deciders, with nginx
	$(BIN)/python -m benchmarks.gateway $(ARGS)

bench-kill: $(READY)  ## how fast a kill is in force
	$(BIN)/python -m benchmarks.kill $(ARGS)

bench-kill-gateway: $(READY)  ## that a kill ends a gateway's streams, and access by each OAuth grant, within the lease; fails if one outlives it
	$(BIN)/python -m benchmarks.kill_gateway $(ARGS)
	$(BIN)/python -m benchmarks.kill_oauth $(ARGS)

routes: $(READY)  ## random applications of Starlette, FastAPI, Django and Flask, each version in an environment of its own
	$(BIN)/python -m tests.routes.environments $(ARGS)

adapters: $(READY)  ## each adapter with its framework, in an environment of its own; ARGS=--short as in .ci/run
	$(BIN)/python -m tests.adapters $(ARGS)

models: $(READY)  ## the models of the protocols, exhaustively; ARGS=--quick without the largest; takes spin and gcc
	@$(BIN)/python -m tests.models $(ARGS)

mutants: $(READY)  ## the vectors, or a test, asked of the code with each line of tests/mutants changed; ARGS="-k wire.py" for some
	@$(BIN)/python -m tests.mutants $(ARGS)

fuzz: $(READY)  ## the parsers, with inputs that atheris makes, in an environment of its own; ARGS="--seconds 60 TARGET"
	@$(BIN)/python -m tests.fuzz $(ARGS)

conformance: $(READY)  ## the MCP conformance suite and the inspector, with and without the gateway; takes npm
	$(BIN)/python -m tests.conformance $(ARGS)

compare: $(READY)  ## ARx beside tenuo in each framework that both have, each in an environment of its own
	$(BIN)/python -m benchmarks.compare $(ARGS)

agentdojo: $(READY)  ## AgentDojo's tools guarded by marks, in an environment of its own; fails if an injected send passes
	$(BIN)/python -m benchmarks.agentdojo $(ARGS)

contract: $(READY)  ## a running mint against its own OpenAPI document; ARGS=--oauth calls the OAuth routes as clients and browsers
	$(BIN)/python -m tests.mint.contract $(ARGS)

login: $(READY)  ## people log in at a real OpenID provider, nanoidp, and connect accounts there and at oidc-provider; takes npm
	$(BIN)/python -m tests.mint.nanoidp
	$(BIN)/python -m tests.gateway.account_issuers

pages: $(READY)  ## login and consent in Chromium, with pictures; takes chromium
	$(BIN)/python -m tests.pages

console: $(READY)  ## the operators' console in Chromium, before a realm at work; ARGS=--all for both themes; takes chromium
	$(BIN)/python -m tests.console.browser $(ARGS)

screenshots: $(READY)  ## pictures of the console's pages, in docs/console and build/console/pictures; takes chromium
	$(BIN)/python -m tests.console.browser pictures $(ARGS)

clients: $(READY)  ## stock MCP clients of PyPI and npm connect to a gateway by its URL, each in an environment of its own; takes npm
	$(BIN)/python -m tests.stock $(ARGS)
	$(BIN)/python -m tests.stock.approvals
	$(BIN)/python -m tests.stock.coding_agents
	$(BIN)/python -m tests.stock.accounts

agents: $(READY)  ## Claude Code, Codex and Gemini CLI of npm under `arx run`, with transcripts that are compared; takes npm and bubblewrap
	$(BIN)/python -m pytest -q -p no:benchmark -n 3 tests/run/coding_agents.py $(ARGS)

afternoon: $(READY)  ## docs/production.md, typed from the page, each machine in a network of its own; takes root, PostgreSQL, Valkey, nginx, Prometheus
	$(BIN)/python -m tests.house.afternoon

operations: $(READY)  ## the set-up of docs/operations.md, typed from the page; takes nginx
	$(BIN)/python -m pytest -p no:benchmark tests/house/gateways.py $(ARGS)

deciders: $(READY)  ## nginx and Caddy that ask a decider of the gateway, with the files of deploy/; takes nginx
	$(BIN)/python -m pytest -q -p no:benchmark -s tests/gateway/proxies.py $(ARGS)

rehearse: $(READY)  ## a realm's bad days: everything restarted, each disk lost, under load; takes nginx, faketime and Redis
	$(BIN)/python -m tests.faults.rehearsal $(ARGS)

failovers: $(READY)  ## a cluster of used calls and budgets fails over twenty times under load; cuts take root; ARGS="--server redis-server"
	$(BIN)/python -m tests.topologies.failovers $(ARGS)

typescript: $(READY)  ## the verifier in TypeScript: vectors on Node, Bun and Deno, the package, random applications of Express, pairs against Python; ARGS=--short for fewer; takes npm, and Valkey or Redis
	$(BIN)/python -m tests.typescript.whole $(ARGS)

docs: $(DOCS)  ## the site of the documentation, in build/site; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

wheels: $(RELEASE)/.ready  ## the wheels and sources of a release in dist, twice and compared, checked; ARGS=--short for this machine, once
	@$(RELEASE)/bin/python deploy/wheels.py $(ARGS)

image: $(RELEASE)/.ready  ## the container image in dist, twice and compared, checked; takes root, mmdebstrap and buildah; ARGS=--short once, on the kept base
	@$(RELEASE)/bin/python deploy/image.py $(ARGS)

packages: $(RELEASE)/.ready  ## the .deb and the .rpm in dist, twice and compared; ARGS=--short once
	@$(RELEASE)/bin/python deploy/packages.py $(ARGS)

packages-try:  ## the .deb in a fresh Debian under systemd, from installation to removal; takes root, mmdebstrap, systemd-container, lintian
	@$(PYTHON) -m tests.release.packages $(ARGS)

release: $(RELEASE)/.ready  ## a release, from the commit of its VERSION, twice and compared, signed, recorded; ARGS=--short for a try
	@$(RELEASE)/bin/python deploy/release.py $(VERSION) $(ARGS)

vulnerabilities: $(RELEASE)/.ready  ## known vulnerabilities of what uv.lock locks, or "not audited"; ARGS=--required fails then
	@$(RELEASE)/bin/python deploy/vulnerabilities.py $(ARGS)

WORKFLOWS := .github/workflows
workflows: $(RELEASE)/.ready  ## lint of the workflows that publish a release
	@$(RELEASE)/bin/zizmor --offline --quiet $(WORKFLOWS)
	@$(RELEASE)/bin/check-jsonschema --builtin-schema vendor.github-workflows $(WORKFLOWS)/*.yml

try-release: $(READY) $(RELEASE)/.ready  ## the tests of what makes a release
	$(BIN)/python -m pytest -q -p no:benchmark $(filter-out tests/release/image.py tests/release/neighbours.py tests/release/packages.py,$(wildcard tests/release/*.py)) $(ARGS)

check: $(READY)  ## format, lint, types, plain English and the site of the documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -p no:benchmark tests/house/test_plain_english.py
	@$(MAKE) --no-print-directory docs

$(DOCS): $(READY) docs/requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	@touch $@

$(RELEASE)/.ready: deploy/wheels.txt
	@$(PYTHON) -m venv --clear $(RELEASE)
	@$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check -r deploy/wheels.txt
	@touch $@

# What is compiled lands beside its source; without a C compiler and headers everything runs in pure Python.
$(READY): pyproject.toml verifier/pyproject.toml verifier/hatch_build.py verifier/arx_verifier/_native/primitives.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ARx needs Python 3.11 or later; set PYTHON=python3.x")'
	@echo "making $(VENV) and installing what ARx needs: under a minute, once" >&2
	@$(PYTHON) -m venv --clear $(VENV) || { echo "hint: Debian has venv in the package python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ./verifier -e '.[dev]'
	@$(BIN)/python -c 'from arx_verifier._native import about_build; print("arx-verifier:", about_build())' >&2
	@touch $@

clean:  ## remove the environments and what was built
	rm -rf $(VENV) $(RELEASE) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis verifier/arx_verifier/_native/*.so
