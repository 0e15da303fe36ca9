# `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin

# What the training targets take; anything else by ARGS, as in make train-mdsa ARGS="--preset paper".
RUN ?= runs
CLIPS ?= $(RUN)/clips
LATENTS ?= $(RUN)/latents

.PHONY: help setup demo generate train-mdsa train-dit test test-slow lint clean \
        bench-clip bench-codecs bench-fuzz bench-scale bench-encode bench-loader bench-dit bench-gpu
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 18

setup: .venv/.ready ## make .venv and install everything into it (Python 3.11 or 3.12; about 5 GB)

.venv/.ready: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	  || { echo "Python 3.11 or 3.12 is needed, not $$($(PYTHON) -V). Say which: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

demo: setup ## make sounding scenes, clip them, check the shards and turn the mel stacks back to sound
	$(BIN)/python -m pipelines.demo

generate: setup ## from nothing to generated clips on a CPU: scenes, clips, both models, samples (RUN=folder)
	$(BIN)/python -m pipelines.generate $(RUN)

train-mdsa: setup ## train the autoencoder on clips; again: goes on (CLIPS=folder RUN=folder ARGS=options)
	$(BIN)/avmodel train-mdsa --clips $(CLIPS) --out $(RUN)/mdsa $(ARGS)

train-dit: setup ## train the transformer on latents; again: goes on (LATENTS=folder RUN=folder ARGS=options)
	$(BIN)/avmodel train-dit --latents $(LATENTS) --out $(RUN)/dit $(ARGS)

test: setup lint ## the tests, fast ones (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

test-slow: setup ## the slow tests too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow"

lint: setup ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

bench-clip: setup ## how fast clips are made, against ffmpeg and librosa (MEDIA=folder of real files; needs ffmpeg)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_clip $(MEDIA)

bench-codecs: setup ## how frames are stored: bytes, ms to write and read, PSNR (MEDIA=folder of real files)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_codecs $(MEDIA)

bench-fuzz: setup ## 300 damaged real files: seconds and memory of each, all in the ledger (MEDIA=)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_fuzz $(MEDIA)

bench-scale: setup ## the plan of 2,000,000 sources, and the driver's memory up to 10,000 shards (ARGS=)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_scale $(ARGS)

bench-encode: setup ## avprep encode: what it keeps of the bare model, the driver's memory, fused against two steps (ARGS=)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_encode $(ARGS)

bench-loader: setup ## latents a second, against plain webdataset
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_loader $(ARGS)

bench-dit: setup ## the STDiT's step against nn.MultiheadAttention, packed against dense; with a GPU the paper's preset
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_dit

bench-gpu: setup ## the paper's presets on a GPU: steps, encode, train, dit (ARGS="--part steps --out DIR")
	$(BIN)/python -m tests.bench.bench_gpu $(ARGS)

clean: ## remove what the demo made
	rm -rf demo-out
