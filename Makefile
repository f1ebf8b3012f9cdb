# The commands that users and CI type. Each builds .venv the first time and again only when its inputs change.
#
#   make train     train TSM on the demo set, DALI loading it
#   make test      the test suite
#   make test-versions   a short one on each end of what setup.cfg promises: before a release, and when setup.cfg's
#                        bounds or constraints*.txt change (Python 3.10 to 3.13 as far as they are here, 10 GB)
#   make lint      ruff and mypy
#   make bench     the benchmark tables of docs/benchmarks.md, measured here
#
# CUDA=120 takes the CUDA 12 builds of DALI and PyTorch instead of the CUDA 13 ones; both run without a GPU.

PYTHON ?= python3
CUDA ?= 130
ARGS ?=

BIN := .venv/bin
REQUIREMENTS := setup.cfg pyproject.toml constraints.txt constraints-cuda$(CUDA).txt
# Not --quiet: of gigabytes that come, one wants to see how far they are.
# --no-compile: Python compiles what is used when it is used, which is a small part of these packages.
PIP_INSTALL := $(BIN)/python -m pip install --no-compile --disable-pip-version-check -c constraints-cuda$(CUDA).txt

.PHONY: train test test-slow test-versions lint bench clean

train: .venv/.train-cuda$(CUDA)
	$(BIN)/python -m train.tsm --loader dali $(ARGS)

test: .venv/.test-cuda$(CUDA)
	$(BIN)/python -m pytest $(ARGS)

test-slow: .venv/.test-cuda$(CUDA)
	$(BIN)/python -m pytest -m slow $(ARGS)

test-versions:
	$(PYTHON) tests/versions.py $(ARGS)

lint: .venv/.test-cuda$(CUDA)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.bench-cuda$(CUDA)
	$(BIN)/python -m train.benchmark $(ARGS)

clean:
	rm -rf .venv .venv-versions .pytest_cache .mypy_cache .ruff_cache

# One environment holds one CUDA: a change of CUDA starts afresh.
.venv/.train-cuda$(CUDA): $(REQUIREMENTS)
	@test -e $(@D)/.cuda$(CUDA) || rm -rf .venv
	@test -d .venv || $(PYTHON) -m venv .venv
	@touch $(@D)/.cuda$(CUDA)
	@echo "installing for CUDA $(CUDA): 6.5 to 7 GB in .venv, most of it the GPU's libraries; a few minutes the first time"
	$(PIP_INSTALL) -e '.[cuda$(CUDA),train]'
	@touch $@

.venv/.test-cuda$(CUDA): .venv/.train-cuda$(CUDA)
	$(PIP_INSTALL) -e '.[cuda$(CUDA),train,test]'
	@touch $@

.venv/.bench-cuda$(CUDA): .venv/.train-cuda$(CUDA)
	$(PIP_INSTALL) -e '.[cuda$(CUDA),train,bench]'
	@touch $@
