# make demo: install, then run the whole pipeline on scikit-learn's digits.  make test, make check: what .ci/run calls.
# make test-fast: all tests but the slow ones.

VENV ?= .venv
BIN := $(VENV)/bin
UV := uv==0.13.8
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)

.PHONY: venv demo test test-fast peers test-peers check format bench campaign

venv: $(VENV)/.installed

# uv is fast; where it cannot reach the packages, pip with the machine's own settings may.
$(VENV)/.installed: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	{ $(BIN)/python -m pip install --quiet $(UV) && \
	  $(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock; } || \
	  $(BIN)/python -m pip install --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# SAELens, beside which our autoencoders are tested and timed. It is not in the lock: nothing of ours imports it.
peers: $(VENV)/.peers

$(VENV)/.peers: requirements-peers.lock $(VENV)/.installed
	{ $(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements.lock -r $<; } || \
	  $(BIN)/python -m pip install --require-hashes -r requirements.lock -r $<
	touch $@

demo: venv
	$(BIN)/amalgam run digits_partial_fusion
	$(BIN)/amalgam run clip_styles

test: venv
	$(BIN)/python -m pytest

test-fast: venv
	$(BIN)/python -m pytest -m "not slow and not proof"

test-peers: peers
	$(BIN)/python -m pytest tests/tasks/sae/test_saelens_peer.py

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: venv
	$(BIN)/python -m benchmarks

# Kills, flipped bits, two drivers at once, a thousand steps: counts that must be zero. An hour.
campaign: venv
	$(BIN)/python -m pytest -m proof --timeout=1800
	$(BIN)/python -m tests.campaign
