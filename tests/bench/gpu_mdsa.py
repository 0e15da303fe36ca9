"""The MDSA's parts of bench_gpu: the training step, encoding, and training for some minutes."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import statistics
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from avmodel.data import ClipBatch, ClipData, collate, to_model
from avmodel.info import count_flops, mdsa_flops
from avmodel.mdsa.checkpoint import Codec, load_mdsa, open_codec
from avmodel.mdsa.discriminators import Discriminators
from avmodel.mdsa.losses import LossWeights, discriminator_loss, generator_loss
from avmodel.mdsa.lpips import LPIPS, LPIPSConfig
from avmodel.mdsa.model import MDSA
from avmodel.mdsa.options import MDSATrainingOptions
from avmodel.mdsa.train import MDSATrainer, train_mdsa
from avmodel.pictures import comparison
from avprep.dsp.psnr import psnr_a, psnr_v
from tests.bench.gpu_rows import (
    PEAK_TFLOPS,
    Bench,
    Refused,
    Results,
    Values,
    made_batch,
    save_random_mdsa,
)

FOREVER = 1_000_000  # steps, of a run that something else ends
PAPER_PSNR = {"V": 32.19, "A": 37.33}  # dB, on Landscape
COUNTED_TFLOP = {"step": 24.0, "encode": 2.91}  # per clip, where torch's counter cannot count

# --- steps ----------------------------------------------------------------------------------------------


class NoClips:
    """In the place of ClipData, for a trainer that gets its batches directly."""

    def split_by_source(self, share: float) -> tuple[NoClips, NoClips]:
        return self, self


def training(bench: Bench, clips: str, out: Path, **changes: Any) -> MDSATrainingOptions:
    values = {
        "clips": clips, "out": str(out), "model": bench.mdsa, "loss": LossWeights(), "lpips": None,
        "stage1_steps": FOREVER, "stage2_steps": FOREVER, "disc_start": 0, "disc_width": bench.disc_width,
        "disc_layers": bench.disc_layers, "batch_size": 1, "accumulate": 1, "lr": 1e-4, "warmup_steps": 0,
        "cooldown_steps": 0, "clip_grad": 1.0, "modality_dropout": 0.0, "holdout": 0.0, "seed": 0,
        "loader_workers": 0, "checkpoint_every": FOREVER, "eval_every": FOREVER, "eval_clips": 16,
        "checkpoint_activations": False, "compile": True, "device": bench.machine.device.type,
    }  # fmt: skip
    return MDSATrainingOptions(**values | changes)


def step_tflop(bench: Bench, stage: int) -> tuple[float, str]:
    """TFLOP per clip of a whole step, losses included, no recomputation; and what counted it."""
    config = bench.mdsa
    shape = (config.frames, config.size, config.size)

    def step() -> None:
        x_hat, posterior = model(clips, sample=stage == 2)
        frames = torch.zeros(1, dtype=torch.long)
        losses, judged = [], []
        for i, (stream, x) in enumerate(clips.items()):
            shared = {"frames": frames, "discriminators": discriminators[stream]}
            kl, of_stream = "latent" if stage == 2 else "none", posterior.of_stream(i)
            loss = generator_loss(
                x, x_hat[stream], weights=LossWeights(), kl=kl, posterior=of_stream, lpips=lpips,
                gamma=float(stage == 2), **shared,
            )  # fmt: skip
            losses.append(loss.total)
            if stage == 2:
                judged.append(discriminator_loss(x, x_hat[stream], **shared)[0])
        for total in (losses, judged):
            if total:
                sum(total).backward()

    try:
        with FakeTensorMode():
            model, lpips = MDSA(config), LPIPS("vgg16")
            discriminators = {
                s: Discriminators(channels=n, ndf=bench.disc_width, n_layers=bench.disc_layers)
                for s, n in config.channels.items()
            }
            clips = {s: torch.empty(1, n, *shape) for s, n in config.channels.items()}
            return count_flops(step) / 1e12, "torch's counter, losses included"
    except (RuntimeError, NotImplementedError) as error:
        print(f"  torch's counter cannot count a step here: {error}", flush=True)
        return COUNTED_TFLOP["step"], "docs/model.md"


def make_trainer(bench: Bench, stage: int, batch: int, *, recompute: bool, whole_graph: bool) -> MDSATrainer:
    """`avmodel train-mdsa`'s trainer at the first step of a stage, fed one batch again and again."""
    config = training(
        bench, "", bench.scratch / "steps", batch_size=batch, checkpoint_activations=recompute,
        stage1_steps=FOREVER if stage == 1 else 0, compile=not whole_graph,
    )  # fmt: skip
    trainer = MDSATrainer(config, bench.machine, NoClips())
    trainer.lpips = LPIPS("vgg16").to(bench.machine.device)  # its weights do not change its time
    if whole_graph and bench.machine.on_gpu:
        trainer.model.encode = torch.compile(trainer.model.encode, dynamic=False)
        trainer.model.decode = torch.compile(trainer.model.decode, dynamic=False)
    return trainer


def time_steps(
    bench: Bench, stage: int, batch: int, *, recompute: bool, tflop: tuple[float, str],
    whole_graph: bool = False, tune: bool = False,
) -> Values:  # fmt: skip
    bench.fresh()
    torch.backends.cudnn.benchmark = tune
    trainer = make_trainer(bench, stage, batch, recompute=recompute, whole_graph=whole_graph)
    batches = [made_batch(bench, batch)]

    def step() -> None:
        trainer.train_step(batches)
        trainer.step += 1

    first = bench.seconds(step, 1)
    bench.seconds(step, 2)
    took = bench.seconds(step)
    if trainer.guard.read(trainer.step):
        raise RuntimeError("a step was left out: its loss or gradient is not finite")
    torch.backends.cudnn.benchmark = False
    return {
        "ms": 1e3 * took, "clips_per_s": batch / took, "mfu": tflop[0] * batch / took / PEAK_TFLOPS,
        "peak_gib": bench.peak_gib(), "tflop_a_clip": tflop[0], "counted_by": tflop[1], "first_step_s": first,
    }  # fmt: skip


def run_steps(bench: Bench, results: Results) -> None:
    tflop = {stage: step_tflop(bench, stage) for stage in (1, 2)}

    def measure(stage: int, batch: int, recompute: bool, how: str = "", **changes: bool) -> None:
        name = (
            f"steps: stage {stage}, batch {batch}, {'recomputed' if recompute else 'kept'} activations{how}"
        )
        results.measure(
            name,
            lambda: time_steps(bench, stage, batch, recompute=recompute, tflop=tflop[stage], **changes),
        )

    for batch, recompute, stage in itertools.product(bench.step_batches, (True, False), (1, 2)):
        measure(stage, batch, recompute)
    largest = bench.step_batches[0]
    measure(2, largest, True, ", cudnn.benchmark", tune=True)
    measure(1, largest, True, ", compiled whole", whole_graph=True)


# --- encode ------------------------------------------------------------------------------------------------


def time_encode(bench: Bench, batch: int, ckpt: Path, tflop: float, *, by_layers: bool = False) -> Values:
    """The codec as `avprep encode` calls it, and its model alone on clips that lie on the device."""
    bench.fresh()
    device = bench.machine.device
    if by_layers:
        model, header = load_mdsa(ckpt)
        if bench.machine.on_gpu:
            model.compile_layers()
        codec = Codec(model, header, device=device, batch_size=batch, compile=False)
    else:
        codec = open_codec(ckpt, device=device.type, batch_size=batch, compile=True)
    turns = itertools.cycle([made_batch(bench, batch) for _ in range(2)])
    first = bench.seconds(lambda: codec.encode(*next(turns)), 1)
    bench.seconds(lambda: codec.encode(*next(turns)), 2)
    whole = bench.seconds_each(lambda: codec.encode(*next(turns)))
    peak = bench.peak_gib()
    # The clips are made in inference mode, as the codec does: others would be compiled for anew.
    with torch.inference_mode(), bench.machine.autocast():
        clips = to_model(ClipBatch(*(part.to(device) for part in next(turns))), bench.mdsa.size)
        bench.seconds(lambda: codec._encode(clips), 2)
        bare = bench.seconds_each(lambda: codec._encode(clips))
    return {
        "clips_per_s": batch / whole, "mfu": tflop * batch / whole / PEAK_TFLOPS, "peak_gib": peak,
        "bare_clips_per_s": batch / bare, "bare_mfu": tflop * batch / bare / PEAK_TFLOPS,
        "ratio": bare / whole, "tflop_a_clip": tflop, "first_s": first,
    }  # fmt: skip


def run_encode(bench: Bench, results: Results) -> None:
    ckpt = save_random_mdsa(bench)
    tflop = mdsa_flops(bench.mdsa)["encode"] / 1e12
    print(f"  {tflop:.4g} TFLOP a clip by torch's counter (the paper preset: {COUNTED_TFLOP['encode']})")
    for batch in bench.encode_batches:
        results.measure(f"encode: batch {batch}", lambda b=batch: time_encode(bench, b, ckpt, tflop))
    batch = bench.encode_batches[0]
    results.measure(f"encode: batch {batch}, compiled by layers",
                    lambda: time_encode(bench, batch, ckpt, tflop, by_layers=True))  # fmt: skip


# --- train -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    clips: str
    minutes: float
    batch_size: int
    lr: float
    holdout: float
    keep_activations: bool
    lpips: LPIPSConfig | None
    loader_workers: int


def held_out(options: TrainOptions) -> ClipData:
    data = ClipData(options.clips).split_by_source(options.holdout)[1]
    if not len(data):
        raise Refused(
            f"--holdout {options.holdout}: no source of --clips {options.clips} is held out; give more"
        )
    return data


def train_for_minutes(bench: Bench, options: TrainOptions, out: Path) -> Values:
    """Stage 1 until the time is over: the trainer stops at a signal and keeps its checkpoint."""
    bench.fresh()
    run = bench.scratch / "train"
    config = training(
        bench, options.clips, run, model=dataclasses.replace(bench.mdsa, adversarial=False),
        stage2_steps=0, batch_size=options.batch_size, lr=options.lr, holdout=options.holdout,
        lpips=options.lpips, warmup_steps=50, loader_workers=options.loader_workers,
        checkpoint_activations=not options.keep_activations, eval_every=bench.eval_every,
    )  # fmt: skip
    timer = threading.Timer(60 * options.minutes, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        result = train_mdsa(config)
    finally:
        timer.cancel()
    log = (run / "metrics.jsonl").read_text()
    (out / "train_metrics.jsonl").write_text(log)
    rows = [json.loads(line) for line in log.splitlines()]
    values = {
        "steps": result.step, "batch": options.batch_size, "skipped": result.skipped,
        "clips_per_s": statistics.median(row["clips_per_s"] for row in rows if "clips_per_s" in row),
        "peak_gib": bench.peak_gib(), "lpips": options.lpips.backbone if options.lpips else "none",
        "curve": [{k.split("/")[-1]: v for k, v in row.items()} for row in rows if "held_out/psnr_v" in row],
    }  # fmt: skip
    return values | psnr_of(bench, run / "mdsa.pt", options, out)


def psnr_of(bench: Bench, ckpt: Path, options: TrainOptions, out: Path, most: int = 64) -> Values:
    """PSNR on clips of sources held out, and DIR/train.png: originals above their reconstructions."""
    data = held_out(options)
    codec = open_codec(ckpt, device=bench.machine.device.type, batch_size=8, compile=False)
    chosen = [i * len(data) // min(most, len(data)) for i in range(min(most, len(data)))]
    found: dict[str, list[torch.Tensor]] = {"V": [], "A": []}
    for first in range(0, len(chosen), 8):
        batch = collate([data[i] for i in chosen[first : first + 8]])
        frames, mel = codec.decode(codec.encode(*batch).mean)
        found["V"].append(psnr_v(batch.frames, frames))
        found["A"].append(psnr_a(batch.mel, mel))
        if not first:
            pair = (to_model(clips, bench.mdsa.size) for clips in (batch, ClipBatch(frames, mel)))
            Image.fromarray(comparison(*pair).numpy()).save(out / "train.png")
    means = {f"psnr_{s.lower()}": float(torch.cat(values).mean()) for s, values in found.items()}
    return means | {"held_out_clips": len(chosen), "held_out_of": len(data)}


def run_train(bench: Bench, results: Results, options: TrainOptions, out: Path) -> None:
    held_out(options)
    name = f"train: stage 1, {options.minutes:g} minutes, batch {options.batch_size}, lr {options.lr:g}"
    results.measure(name, lambda: train_for_minutes(bench, options, out))
    paper = (
        f"The paper: {PAPER_PSNR['V']} and {PAPER_PSNR['A']} on Landscape, other data and a whole training"
    )
    for row in results.rows:
        if row["name"] == name and "psnr_v" in row:
            found = f"PSNR-V {row['psnr_v']:.2f} dB, PSNR-A {row['psnr_a']:.2f} dB"
            print(f"  {found} on sources held out. {paper}", flush=True)
