# `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin

# Arguments of the training targets; any other option by ARGS, as in make train-mdsa ARGS="--preset paper".
RUN ?= runs
CLIPS ?= $(RUN)/clips
LATENTS ?= $(RUN)/latents

.PHONY: help setup demo generate train-mdsa train-dit test test-slow lint clean \
        bench bench-clip bench-cuts bench-codecs bench-fuzz bench-faults bench-flat bench-report bench-scale bench-encode bench-loader \
        bench-metrics \
        bench-dit bench-joining bench-gpu readme
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 18

setup: .venv/.ready ## make .venv with the versions in constraints.txt (Python 3.11 or 3.12; about 5 GB)

.venv/.ready: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	  || { echo "$(PYTHON) is $$($(PYTHON) -V); Python 3.11 or 3.12 is needed. Choose one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

demo: setup ## make test videos, clip them, verify the shards, turn mel stacks back into sound
	$(BIN)/python -m pipelines.demo

generate: setup ## the whole way to generated clips on a CPU, 32 minutes on two cores (RUN=folder)
	$(BIN)/python -m pipelines.generate $(RUN)

train-mdsa: setup ## train or resume the autoencoder (CLIPS=folder RUN=folder ARGS=options)
	$(BIN)/avmodel train-mdsa --clips $(CLIPS) --out $(RUN)/mdsa $(ARGS)

train-dit: setup ## train or resume the transformer (LATENTS=folder RUN=folder ARGS=options)
	$(BIN)/avmodel train-dit --latents $(LATENTS) --out $(RUN)/dit $(ARGS)

test: setup lint ## lint, and the fast tests, two at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: setup ## all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow"

lint: setup ## ruff (rules and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

readme: setup ## run the README's examples and write their output into it
	$(BIN)/python -m tests.integration.readme

bench: bench-scale bench-encode bench-loader bench-dit ## the benchmarks that need neither media nor a GPU

bench-clip: setup ## clips per second against ffmpeg, torchcodec, librosa (MEDIA=folder; needs ffmpeg)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_clip $(MEDIA)

bench-cuts: setup ## what finding cuts and bars costs per minute of video (MEDIA=folder)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_cuts $(MEDIA)

bench-codecs: setup ## frame codecs: bytes, ms to write and read, PSNR (MEDIA=folder)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_codecs $(MEDIA)

bench-fuzz: setup ## 300 damaged files: seconds and memory per file, all in the ledger (MEDIA=folder)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_fuzz $(MEDIA)

bench-faults: setup ## kills, full disks, stopped workers over every command that writes (RUN=folder ARGS=options)
	$(BIN)/python -m tests.bench.bench_faults $(RUN)/faults $(ARGS)

bench-flat: setup ## memory and open files of a worker over 3,000 sources, a driver over 2,000 shards (ARGS=options)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_flat $(ARGS)

bench-report: setup ## time and memory of a report over 1,000,000 rows (ARGS=options)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_report $(ARGS)

bench-metrics: setup ## clips/s and memory of each metric, 2,048 clips against 2,048 (ARGS="--weights DIR ...")
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_metrics $(ARGS)

bench-scale: setup ## a plan of 2,000,000 sources, the driver's memory at 10,000 shards (ARGS=options)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_scale $(ARGS)

bench-encode: setup ## avprep encode against the bare model; driver memory; one pass against two (ARGS=options)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_encode $(ARGS)

bench-loader: setup ## latents per second against plain webdataset (ARGS=options)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_loader $(ARGS)

bench-dit: setup ## the STDiT's step against nn.MultiheadAttention; packed against dense
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_dit

bench-joining: setup ## does joining the streams pay? three experiments, resumable (RUN=folder ARGS=options)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_joining --out $(RUN)/joining $(ARGS)

bench-gpu: setup ## the paper's presets on a GPU (ARGS="--part steps --out DIR")
	$(BIN)/python -m tests.bench.bench_gpu $(ARGS)

clean: ## remove the demo's output
	rm -rf demo-out
