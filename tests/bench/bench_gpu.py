"""What the models cost on a GPU, in four parts: `python -m tests.bench.bench_gpu --part steps --out DIR`.

    steps    the MDSA's training step: both stages, batch 1 to 8, with and without recomputation
    encode   `avprep encode`'s codec, from pinned frames to latents, against the bare model
    train    the MDSA trained on clip shards for some minutes, PSNR on sources held out
    dit      the STDiT's training step (bench_dit), 30 steps of sampling and decoding

DIR/results.json is written after every row. Rows that it holds are not measured again, so the same command
resumes; no row is begun after START_UNTIL_S of a part, and rows that were not begun are listed.
Needs neither Ray nor PyAV. `--dry-run-cpu` runs all of it with tiny models, as a test.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import click
import torch

from avmodel.config import MDSA_PRESETS, STDIT_PRESETS, STDiTConfig
from avmodel.dit.flow import solve
from avmodel.dit.guidance import guided
from avmodel.dit.model import STDiT
from avmodel.info import stdit_flops
from avmodel.mdsa.checkpoint import open_codec
from avmodel.mdsa.lpips import TRUNKS, LPIPSConfig
from avmodel.training.machine import DistributedContext, open_distributed
from avprep.spec import ClipSpec
from tests.bench import bench_dit
from tests.bench.gpu_mdsa import TrainOptions, run_encode, run_steps, run_train
from tests.bench.gpu_rows import PEAK_TFLOPS, Bench, Refused, Results, Values, save_random_mdsa
from tests.made_clips import TINY, write_clips

PARTS = ("steps", "encode", "train", "dit")
PAPER_SAMPLE_S = 3.93  # the paper does not name its GPU

# --- dit ------------------------------------------------------------------------------------------------


def dit_step(bench: Bench, config: STDiTConfig, batch: int) -> Values:
    bench.fresh()
    tflop = 3e-12 * stdit_flops(config, bench.mdsa.layout)
    took = bench_dit.gpu_step(config, bench.mdsa.layout, batch, bench.machine.device.type)
    return {"ms": 1e3 * took, "samples_per_s": batch / took, "mfu": tflop * batch / took / PEAK_TFLOPS,
            "peak_gib": bench.peak_gib(), "tflop_a_sample": tflop}  # fmt: skip


def eager_sample(bench: Bench, batch: int, guidance: float, ckpt: Path) -> Values:
    """As `avmodel sample` runs it: nothing compiled, from noise to frames and mel on the CPU."""
    bench.fresh()
    machine, layout = bench.machine, bench.mdsa.layout
    model = STDiT(bench.dit, layout).to(machine.device).eval()
    codec = open_codec(ckpt, device=machine.device.type, batch_size=batch, compile=False)
    _, eps, _, captions = bench_dit.draw_batch(bench.dit, layout, batch, machine.device.type)

    def sample() -> torch.Tensor:
        with torch.inference_mode(), machine.autocast():
            v = guided(model, captions, guidance)
            return solve(v, eps, steps=bench_dit.STEPS, mask=layout.mask(machine.device)).cpu()

    bench.seconds(lambda: codec.decode(sample()), 1)
    solving = bench.seconds(sample, 3)
    took = bench.seconds(lambda: codec.decode(sample()), 3)
    return sampled(took, solving, batch) | {"peak_gib": bench.peak_gib()}


def compiled_sample(bench: Bench, batch: int, guidance: float, ckpt: Path) -> Values:
    """Sampling compiled and captured in a CUDA graph, decoding compiled: measured alone, then added."""
    bench.fresh()
    layout, device = bench.mdsa.layout, bench.machine.device.type
    solving = bench_dit.gpu_sampling(bench.dit, layout, batch, guidance, device)
    peak = bench.peak_gib()
    bench.fresh()
    codec = open_codec(ckpt, device=device, batch_size=batch, compile=True)
    z = torch.rand(batch, *layout.shape) * layout.mask()
    bench.seconds(lambda: codec.decode(z), 2)
    decoding = bench.seconds(lambda: codec.decode(z), 5)
    return sampled(solving + decoding, solving, batch) | {
        "peak_gib": peak,
        "decode_peak_gib": bench.peak_gib(),
    }


def sampled(took: float, solving: float, batch: int) -> Values:
    return {"s": took, "s_a_sample": took / batch, "solve_s": solving, "decode_s": took - solving}


def run_dit(bench: Bench, results: Results) -> None:
    ckpt = save_random_mdsa(bench)
    for batch, guidance in itertools.product(bench.sample_batches, (1.0, 4.0)):
        results.measure(f"dit: 30 steps + decode, batch {batch}, guidance {guidance:g}, eager",
                        lambda b=batch, g=guidance: eager_sample(bench, b, g, ckpt))  # fmt: skip
    for batch in bench.dit_batches:
        results.measure(
            f"dit: training step, dense, batch {batch}", lambda b=batch: dit_step(bench, bench.dit, b)
        )
    for batch, guidance in itertools.product(bench.sample_batches, (1.0, 4.0)):
        results.measure(f"dit: 30 steps + decode, batch {batch}, guidance {guidance:g}, compiled",
                        lambda b=batch, g=guidance: compiled_sample(bench, b, g, ckpt))  # fmt: skip
    packed = dataclasses.replace(bench.dit, packed=True)
    for batch in bench.dit_batches:
        results.measure(
            f"dit: training step, packed, batch {batch}", lambda b=batch: dit_step(bench, packed, b)
        )
    print(f"  The paper gives {PAPER_SAMPLE_S} s a sample and does not name its GPU.", flush=True)


# --- the command -------------------------------------------------------------------------------------------


def real_bench(machine: DistributedContext, scratch: Path) -> Bench:
    return Bench(
        machine=machine, mdsa=MDSA_PRESETS["paper"], dit=STDIT_PRESETS["paper"], spec=ClipSpec(),
        step_batches=(8, 4, 1), encode_batches=(32, 8, 1), dit_batches=(64, 2), sample_batches=(1, 16),
        rounds=8, disc_width=64, disc_layers=3, eval_every=50, scratch=scratch,
    )  # fmt: skip


def dry_bench(machine: DistributedContext, scratch: Path) -> Bench:
    return Bench(
        machine=machine, mdsa=MDSA_PRESETS["tiny"], dit=STDIT_PRESETS["tiny"], spec=TINY,
        step_batches=(2, 1), encode_batches=(2, 1), dit_batches=(2,), sample_batches=(1, 2),
        rounds=1, disc_width=4, disc_layers=1, eval_every=10, scratch=scratch,
    )  # fmt: skip


def train_options(options: Values, scratch: Path, *, dry: bool) -> TrainOptions:
    files = options.pop("lpips_backbone"), options.pop("lpips_heads")
    backbone = options.pop("lpips")
    if (files[0] is None) != (files[1] is None):
        raise Refused("--lpips-backbone and --lpips-heads come together; without both, LPIPS is left out")
    lpips = LPIPSConfig(backbone=backbone, backbone_weights=files[0], heads=files[1]) if files[0] else None
    if dry:
        clips = write_clips(scratch / "clips", sources=8)
        return TrainOptions(clips=str(clips), minutes=0.05, batch_size=2, lr=1e-3, holdout=0.4, lpips=None,
                            keep_activations=False, loader_workers=0)  # fmt: skip
    if options["clips"] is None:
        raise Refused("--part train takes --clips, an output of `avprep clip` of 16 frames at 256 px")
    return TrainOptions(**options, lpips=lpips, loader_workers=max(1, min(8, (os.cpu_count() or 1) - 2)))


def on_no_gpu(stack: ExitStack) -> None:
    """Stand-ins for what needs CUDA: no graph is captured and nothing is compiled."""
    stack.enter_context(mock.patch.object(bench_dit, "captured", lambda run: run))
    stack.enter_context(torch.compiler.set_stance("force_eager"))


def measured_parts(part: str, bench: Bench, results: Results, options: Values, out: Path) -> Iterator[str]:
    """Runs the parts asked for; `all` leaves training out where there are no clips."""
    for name in PARTS if part == "all" else (part,):
        if name == "train" and part == "all" and options["clips"] is None and not bench.dry:
            print("\ntrain: left out, there are no --clips", flush=True)
            continue
        results.start_part(name)
        if name == "steps":
            run_steps(bench, results)
        elif name == "encode":
            run_encode(bench, results)
        elif name == "train":
            run_train(bench, results, train_options(dict(options), bench.scratch, dry=bench.dry), out)
        else:
            run_dit(bench, results)
        yield name


@click.command()
@click.option("--part", type=click.Choice([*PARTS, "all"]), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for results.json.")
@click.option(
    "--clips", help="For train: an output of `avprep clip`; raw or jpeg frames where PyAV is missing."
)
@click.option("--lpips", type=click.Choice(list(TRUNKS)), default="squeezenet1_1", show_default=True)
@click.option(
    "--lpips-backbone", type=click.Path(path_type=Path, exists=True), help="For train: its weights."
)
@click.option("--lpips-heads", type=click.Path(path_type=Path, exists=True), help="For train: its heads.")
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), default=6.5, show_default=True, help="Train."
)
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Train.")
@click.option("--lr", type=float, default=1e-4, show_default=True, help="Train.")
@click.option(
    "--holdout", type=click.FloatRange(0, 1), default=0.15, show_default=True, help="Share of sources."
)
@click.option("--keep-activations", is_flag=True, help="Train: without recomputation.")
@click.option(
    "--dry-run-cpu", is_flag=True, help="Tiny models on the CPU: shows that it runs, measures nothing."
)
def main(part: str, out: Path, dry_run_cpu: bool, **options: Any) -> None:
    """Measure the models on one GPU."""
    if not dry_run_cpu and not torch.cuda.is_available():
        raise Refused("torch finds no CUDA device here; --dry-run-cpu shows that the script runs")
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        machine = stack.enter_context(open_distributed("cpu" if dry_run_cpu else "cuda"))
        if dry_run_cpu:
            on_no_gpu(stack)
        bench = (dry_bench if dry_run_cpu else real_bench)(machine, scratch)
        device = "CPU, tiny models: no measurement" if dry_run_cpu else torch.cuda.get_device_name()
        print(f"{device}; torch {torch.__version__}; bf16; MFU of {PEAK_TFLOPS} TFLOP/s", flush=True)
        results = Results(out, device)
        for name in measured_parts(part, bench, results, options, out):
            print(f"{name}: done", flush=True)
    sys.exit(1 if results.failed else 0)


if __name__ == "__main__":
    main()
