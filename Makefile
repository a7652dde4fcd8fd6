# Two commands do everything on a new machine with Python 3.11 or later: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Most tests wait for servers most of the time; a file's tests stay together, as they share what they start.
TEST := $(BIN)/python -m pytest -p no:benchmark -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast compiled test-compiled nightly bench bench-growth bench-service bench-all bench-audit bench-kill bench-mint contract check clean

demo: $(READY)
	@$(BIN)/python -m arx_caps.demo $(if $(JSON),--json)

test: $(READY)
	$(TEST) $(ARGS)

test-fast: $(READY)
	$(TEST) -m "not servers and not install and not long" $(ARGS)

nightly: $(READY)
	.ci/nightly

# The verifier built with its compiled twins, in a folder of its own; it takes a C compiler and headers.
compiled: $(READY)
	@rm -rf build/compiled
	ARX_COMPILED=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/compiled ./verifier

# The same tests, with it.
test-compiled: compiled
	ARX_REQUIRE_COMPILED=1 PYTHONPATH=build/compiled $(TEST) tests/verifier tests/advisories tests/agent $(ARGS)

bench: $(READY)
	@$(MAKE) --silent compiled || { rm -rf build/compiled; echo "the compiled build is left out: it takes a C compiler" >&2; }
	$(BIN)/python -m benchmarks.bench $(ARGS)

bench-growth: $(READY)
	$(BIN)/python -m benchmarks.growth $(ARGS)

bench-service: $(READY)
	$(BIN)/python -m benchmarks.service $(ARGS)

bench-all: bench bench-growth bench-service

bench-audit: $(READY)
	$(BIN)/python -m benchmarks.audit $(ARGS)

bench-mint: $(READY)
	$(BIN)/python -m benchmarks.mint $(ARGS)

bench-kill: $(READY)
	$(BIN)/python -m benchmarks.kill $(ARGS)

contract: $(READY)
	$(BIN)/python -m tests.mint.contract $(ARGS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(READY): pyproject.toml verifier/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ARx needs Python 3.11 or later; set PYTHON=python3.x")'
	@echo "making $(VENV) and installing what ARx needs: under a minute, once" >&2
	@$(PYTHON) -m venv --clear $(VENV) || { echo "hint: Debian has venv in the package python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ./verifier -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
