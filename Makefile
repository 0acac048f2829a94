# `make run` and `make test` need nothing but Python 3.11 or later; everything else is installed into .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
LOCK   ?= requirements-dev.lock

# Some containers set this to 1. Every process would then compile all sources again, which takes half a second each.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run test check prose faults bench setup lock test-versions images clean
.DEFAULT_GOAL := run

setup: $(VENV)/.$(LOCK)

# The stamp carries the name of the lock, so that a CI lock installed over a user's one is noticed.
$(VENV)/.$(LOCK): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Relay needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Use `make PYTHON=python3.12 ...`" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: setup
	@exec $(BIN)/relay up $(ARGS)

# Test files run side by side in this many processes, each with separate servers: the tests mostly wait.
# WORKERS=0 runs everything in one process, for `-s` and for a debugger.
WORKERS ?= 4
test: setup
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The rules for prose, of .vale.ini. Needs vale (https://vale.sh) in the PATH; .ci/run builds it.
VALE  ?= vale
PROSE := README.md CONTRIBUTING.md SECURITY.md CHANGELOG.md docs shared services tests benchmarks faults
prose:
	$(VALE) --output=line $(PROSE)

# Stops one part after the other under load and compares what is stored: ARGS="--rounds 10".
faults: setup
	$(BIN)/python -m faults $(ARGS)

# Measures Relay beside its peers; needs wrk, node and npm. ARGS="tokens --rounds 2" for a part of it.
bench: setup
	$(BIN)/python -m benchmarks $(ARGS)

# The integration tests against other servers: the newest Postgres of Debian and the redis-server in PATH, unless named.
test-versions: setup
	$(BIN)/python -m tests.versions $(if $(POSTGRES),--postgres $(POSTGRES)) $(if $(REDIS),--redis $(REDIS)) $(ARGS)

# Both images and the compose file on a real Docker engine. Needs root on Debian 12, and LOCK=requirements-ci.lock for the proxy.
images: setup
	$(BIN)/python -m tests.containers $(ARGS)

# Needs `uv`. Locks carry versions and hashes only, so they install from whatever index the machine is set up with.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url -c requirements.lock requirements-worker.in -o requirements-worker.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --extra embedded --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --extra embedded --extra dev --extra ci -c requirements-dev.lock pyproject.toml -o requirements-ci.lock

clean:
	rm -rf $(VENV) .relay
