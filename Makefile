# Every target sets itself up; nothing has to be installed by hand but Python 3.11 or newer.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Named by what is to be installed: an edited requirement makes the next target install it.
READY := $(VENV)/.ready-$(firstword $(shell cksum < requirements.txt))
READY_DEV := $(VENV)/.ready-dev-$(firstword $(shell cat requirements.txt requirements-dev.txt | cksum))
# Without compiling: most files are never imported.
PIP := $(PY) -m pip install -qq --disable-pip-version-check --no-compile
TORCH_FITS := import sys, torch; sys.exit(not (2, 11) <= tuple(map(int, torch.__version__.split(".")[:2])) <= (2, 13))
NAME ?= nano
# Keep freed memory: without this, glibc returns every large tensor to the kernel and a third of the time goes there.
export MALLOC_MMAP_MAX_ = 0
export MALLOC_TRIM_THRESHOLD_ = 8589934592
export MALLOC_TOP_PAD_ = 268435456
export MALLOC_ARENA_MAX = 1
RUN = runs/$(NAME)
STAGES := bidirectional,causal,consistency,dmd,export
BRIEFLY := clips=4 listeners=1 drawn=1 seeds=1 speed_runs=1
SAMPLES = image=$$($(PY) -m serve.samples portrait) audio=$$($(PY) -m serve.samples speech)

# Of the tests' order, chosen once: another each time, so that no test comes to depend on those before it.
SEED := $(shell echo $$RANDOM)
# How often a test that fails runs again; where it then passes, the summary still shows how it failed.
RERUNS := 0
PYTEST = $(PY) -m pytest -n 2 --reruns $(RERUNS) --rerun-show-tracebacks

.PHONY: help setup setup-dev run run-pixels character character-256 serve world bench-gpu test acceptance lint clean
help:
	@echo "make run    set up, train every stage at nano scale, evaluate, end with $(RUN)/talk.mp4"
	@echo "make run-pixels  the same in pixel latents: make data, train an autoencoder too, 128 px"
	@echo "make character  the character that ships, from nothing: hours on 2 cores, resumable"
	@echo "make character-256  a character at 256 x 256, from data to report; for a GPU, resumable"
	@echo "make serve  talk with the shipped character in a browser"
	@echo "make world  walk through the shipped world in a browser"
	@echo "make test   set up and run every test but acceptance"
	@echo "make acceptance  run the commands of README and docs as they are printed, at nano scale"
	@echo "make setup  the environment alone: .venv (TORCH_INDEX=https://... for another build of torch)"
	@echo "make setup-dev  and what tests, linters, Wan checkpoints and the Optuna sweeper need"
	@echo "make bench-gpu  every case that a GPU is rented for, most wanted first; JSON in serve/results/"
	@echo "make lint   ruff, pyright, import-linter, hadolint"
	@echo "make clean  delete runs, shards and the environment"

setup: $(READY)
# A suitable torch of the machine's own Python (a CUDA image) is kept and used; otherwise one is installed first, so that
# nothing else decides its version. On a machine without a GPU, TORCH_INDEX can name an index of small CPU builds.
$(READY):
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"python is {v.major}.{v.minor}, must be 3.11 or newer: make PYTHON=/path/to/python3.11")'
	@./setup_system.sh $(PYTHON)
	@echo "setting up $(VENV) (a few minutes, once)"
	@test -x $(PY) || $(PYTHON) -m venv $$($(PYTHON) -c '$(TORCH_FITS)' 2>/dev/null && echo --system-site-packages) $(VENV)
	@$(PY) -c '$(TORCH_FITS)' 2>/dev/null || $(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	@$(PIP) --no-deps -r requirements.txt
	@$(PY) -c 'import torch, lightning, hydra, av, moderngl, ai_edge_litert'
	@rm -f $(VENV)/.ready-[0-9]* && touch $@

setup-dev: $(READY_DEV)
$(READY_DEV): $(READY)
	@echo "adding what tests, linters, published checkpoints and sweeps need"
	@$(PIP) --no-deps -r requirements-dev.txt
	@rm -f $(VENV)/.ready-dev* && touch $@

# One thread trains, and a worker makes the performances that it trains on: two threads would wait for the worker's core.
run: setup
	@OMP_NUM_THREADS=1 $(PY) train.py -m stage=$(STAGES) experiment=nano_motion name=$(NAME)
	@echo "rendering people whom no training saw, to judge by"
	@$(PY) -m data.characters out=shards/$(NAME) resolution=256 num_frames=96 train=0 val=0 test=12 clips_per_identity=1 seed=11
	@$(PY) evaluate.py artifact=$(RUN)/artifact shards=shards/$(NAME) runs=$(RUN) out=$(RUN) $(BRIEFLY)
	@$(PY) -m serve.generate artifact=$(RUN)/artifact $(SAMPLES) out=$(RUN)/talk.mp4
	@echo "done: watch $(RUN)/talk.mp4, read $(RUN)/report.html"

run-pixels: NAME := pixels
run-pixels: setup
	@$(PY) -m data.characters out=shards/$(NAME) train=192 val=16 test=16 clips_per_identity=1 head_motion=0.15
	@$(PY) train.py -m stage=autoencoder,$(STAGES) name=$(NAME)
	@$(PY) evaluate.py artifact=$(RUN)/artifact shards=shards/$(NAME) runs=$(RUN) out=$(RUN) $(BRIEFLY)
	@$(PY) -m serve.generate artifact=$(RUN)/artifact $(SAMPLES) out=$(RUN)/talk.mp4
	@echo "done: watch $(RUN)/talk.mp4, read $(RUN)/report.html"

# Resumable; hours on two cores: the autoencoder took 96 and 78 minutes of a busy one, the model 104, the judging 50.
# The autoencoder is trained in two runs, the second with half the learning rate and twice the weight of the flow. What
# ships differs: its first stage had data.weights_px=[0.5,2.0] data.crops=20, it was trained in bf16, and its autoencoder
# saw renders without single teeth first, then 400 pairs with them: 3000 more steps at 4e-4, 32 minutes of a core.
character: setup
	@$(PY) -m data.motion out=shards/motion train=760
	@$(PY) train.py stage=motion name=character_start shards=shards/motion trainer.max_steps=4500
	@$(PY) train.py stage=motion name=$@ shards=shards/motion init=runs/character_start/motion/weights trainer.max_steps=6000 stage.network.optimizer.lr=5e-4 stage.weights.flow=0.6
	@$(PY) train.py -m stage=bidirectional,causal,consistency,dmd,long experiment=character_motion name=$@
	@$(PY) train.py stage=export experiment=character_motion name=$@ init=runs/$@/long/weights vae=runs/$@/motion/weights +call.dtype=int8
	@$(PY) -m data.characters out=shards/$@ resolution=256 num_frames=96 train=0 val=0 test=110 clips_per_identity=1 seed=11
	@$(PY) evaluate.py artifact=runs/$@/artifact shards=shards/$@ out=runs/$@ suite=full

character-256: setup
	@$(PY) -m data.characters out=shards/$@ resolution=256 num_frames=72 train=6000 val=32 test=32 clips_per_identity=1 workers=$$(nproc)
	@$(PY) train.py -m stage=autoencoder,$(STAGES) experiment=character_256 name=$@
	@$(PY) evaluate.py artifact=runs/$@/artifact shards=shards/$@ runs=runs/$@ out=runs/$@ suite=full

bench-gpu: setup
	@$(PY) -m serve.bench --config-name bench_gpu

serve: setup
	@$(PY) -m serve

# Ten seconds can be taken back. A lead of 200 ms: a chunk of 167 ms, and what making the next one may take.
world: setup
	@$(PY) -m serve artifact=weights/world lead_ms=200 undo_chunks=60

test: setup-dev
	@echo "random order; the same again: make test SEED=$(SEED)"
	@$(PYTEST) --dist loadfile --random-order --random-order-seed=$(SEED)

# Without such tests there is nothing to run; where they exist, running none is a failure (pytest's exit code 5).
acceptance: setup-dev
	@if grep -rq --include='*.py' 'mark\.acceptance' tests; then $(PYTEST) -m acceptance; \
	else echo "no test has the marker acceptance"; fi

lint: setup-dev
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/pyright && PYTHONPATH=. $(VENV)/bin/lint-imports && $(VENV)/bin/hadolint Dockerfile

clean:
	rm -rf runs shards $(VENV)
