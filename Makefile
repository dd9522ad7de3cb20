# A fresh machine needs Python 3.11 or newer, git and make; everything else goes into .venv.

PYTHON ?= python3
WORKERS ?= 2
BENCHES ?= throughput rollout_overhead vector generation database_reset
RUN ?= runs/demo

BIN := .venv/bin
# setuptools warns of every editable installation; what it warns of is meant.
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-build-isolation -c constraints.txt
# One thread a process: the tests run in several, and small models gain nothing from more.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test slow lint format bench clean

help:
	@echo "make demo    explore, train and evaluate on a laptop CPU; results in $(RUN)"
	@echo "make test    the quick suite"
	@echo "make slow    the tests that take longer"
	@echo "make lint    ruff and mypy"
	@echo "make format  let ruff mend what it can"
	@echo "make bench   how fast: $(BENCHES)"
	@echo "make clean   remove caches and builds; .venv and runs stay"

demo: .venv/train.stamp
	$(BIN)/trialgym loop --preset laptop --out $(RUN)

test: .venv/test.stamp
	$(PYTEST) -n $(WORKERS) --dist loadscope -m "not slow and not docker and not gpu"

slow: .venv/test.stamp
	$(PYTEST) -n $(WORKERS) --dist loadscope -m "slow and not docker and not gpu"

lint: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/train.stamp
	for name in $(BENCHES); do OMP_NUM_THREADS=1 $(BIN)/python -m trialgym.benchmarks.$$name || exit; done

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage

# Stamps: an install is repeated only when what it installs has changed.

.venv/pip.stamp: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "trialgym needs Python 3.11 or newer; this is " + sys.version.split()[0] + \
	  "; name another one: make PYTHON=/path/to/python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip setuptools
	@touch $@

.venv/train.stamp: .venv/pip.stamp pyproject.toml
	$(PIP) -e '.[train]'
	@touch $@

.venv/test.stamp: .venv/pip.stamp pyproject.toml
	$(PIP) -e '.[parquet,postgres,train]' --group test --group lint
	@touch $@
