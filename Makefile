# `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup demo test test-slow lint bench-clip bench-codecs bench-dit bench-encode clean
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

test: setup lint ## the tests, fast ones (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

test-slow: setup ## the slow tests too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow"

lint: setup ## ruff
	$(BIN)/ruff check .

bench-clip: setup ## how fast clips are made, against ffmpeg and librosa (MEDIA=folder of real files; needs ffmpeg)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_clip $(MEDIA)

bench-codecs: setup ## how frames are stored: bytes, ms to write and read, PSNR (MEDIA=folder of real files)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_codecs $(MEDIA)

bench-dit: setup ## the STDiT's step against nn.MultiheadAttention, packed against dense; with a GPU the paper's preset
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_dit

bench-encode: setup ## avprep encode: what it keeps of the bare model, the driver's memory, fused against two steps (ARGS=)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_encode $(ARGS)

clean: ## remove what the demo made
	rm -rf demo-out
