"""What a step of the STDiT costs: `python -m tests.bench.bench_dit`. Needs torch and numpy alone.

On the CPU, alternating in one run: a training step of the small preset against the same architecture
written with nn.MultiheadAttention, and packed against dense. With a CUDA device also the paper preset, in
bf16, compiled and captured in CUDA graphs: training steps, MFU, sampling (no decoding), peak memory.
"""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from avmodel.config import STDIT_PRESETS, STDiTConfig
from avmodel.dit.flow import draw_source, draw_times, flow_loss, solve
from avmodel.dit.guidance import guided
from avmodel.dit.model import Captions, STDiT
from avmodel.info import stdit_flops
from avmodel.latents import LatentLayout
from tests.avmodel.plain_stdit import PlainSTDiT

SMALL = LatentLayout(channels=4, frames=16, grid=8, streams=("v", "a"))
PAPER = LatentLayout(channels=4, frames=16, grid=32, streams=("v", "a"))
PEAK_TFLOPS = 790  # bf16 matrix products of one H100 or H200, as measured
ROUNDS = 7
STEPS = 30
Batch = tuple[Tensor, Tensor, Tensor, Captions]


def row(what: str, value: str, ratio: str = "", aim: str = "", met: bool | None = None) -> None:
    verdict = {True: "met", False: "missed", None: ""}[met]
    print(f"| {what} | {value} | {ratio} | {aim} | {verdict} |", flush=True)


def seconds(cases: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """The median time of each, measured in alternation, so that a busy machine slows all alike."""
    taken = {name: [] for name in cases}
    for turn in range(rounds + 2):  # two to warm up
        for name, case in cases.items():
            started = time.perf_counter()
            case()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= 2:
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in taken.items()}


def draw_batch(config: STDiTConfig, layout: LatentLayout, batch: int, device: str) -> Batch:
    """z1, eps, t, captions"""
    g = torch.Generator(device).manual_seed(0)
    shape = (batch, *layout.shape)
    tokens = torch.randn(batch, config.caption_tokens, config.caption_dim, generator=g, device=device)
    captions = Captions(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=device))
    return draw_source(shape, g), draw_source(shape, g), draw_times(batch, g), captions


def training_step(model: nn.Module, layout: LatentLayout, batch: Batch) -> Callable[[], None]:
    """Forward and backward."""
    z1, eps, t, captions = batch
    mask = layout.mask(z1.device)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        flow_loss(lambda z, t: model(z, t, captions), z1, eps, t, mask).loss.backward()

    return step


def cpu_table() -> None:
    print(f"CPU, {torch.get_num_threads()} thread(s), small preset, forward + backward at batch 16, float32")
    print("| what | ms | ratio | aim | |\n|---|---|---|---|---|")
    small = STDIT_PRESETS["small"]
    for name, config, layout in (
        ("small latent (192 tokens, 160 valid)", small, SMALL),
        ("paper's latent (384 tokens, 256 valid)", dataclasses.replace(small, patch=(4, 4)), PAPER),
    ):
        torch.manual_seed(0)
        dense = STDiT(config, layout)
        packed = STDiT(dataclasses.replace(config, packed=True), layout)
        packed.load_state_dict(dense.state_dict())
        models = {"plain": PlainSTDiT(config, layout).load(dense), "dense": dense, "packed": packed}
        batch = draw_batch(config, layout, 16, "cpu")
        took = seconds({k: training_step(model, layout, batch) for k, model in models.items()})
        row(f"{name}: nn.MultiheadAttention", f"{1e3 * took['plain']:.0f}")
        ratio = took["plain"] / took["dense"]
        row(f"{name}: dense", f"{1e3 * took['dense']:.0f}", f"{ratio:.2f} x", "1 x of the plain", ratio > 1)
        ratio = took["dense"] / took["packed"]
        row(
            f"{name}: packed", f"{1e3 * took['packed']:.0f}", f"{ratio:.2f} x", "1.3 x of dense", ratio >= 1.3
        )


def captured(run: Callable[[], object]) -> Callable[[], None]:
    """`run` as one CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def gpu_step(config: STDiTConfig, layout: LatentLayout, batch: int, device: str = "cuda") -> float:
    """Seconds of a whole training step: forward, backward, clipping, AdamW."""
    model = STDiT(config, layout).to(device)
    fast = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True, capturable=device == "cuda")
    z1, eps, t, captions = draw_batch(config, layout, batch, device)
    mask = layout.mask(device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        # A cached cast made while warming up would be missing from the graph.
        with torch.autocast(device, torch.bfloat16, cache_enabled=False):
            loss = flow_loss(lambda z, t: fast(z, t, captions), z1, eps, t, mask).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    replay = captured(step)
    return seconds({"step": replay}, rounds=20)["step"]


def gpu_sampling(
    config: STDiTConfig, layout: LatentLayout, batch: int, guidance: float, device: str = "cuda"
) -> float:
    """Seconds of `STEPS` Euler steps, without decoding."""
    model = STDiT(config, layout).to(device).eval()
    for module in model.modules():
        if isinstance(module, nn.Linear):  # once, and not at every step; the rest stays float32
            module.bfloat16()
    _, eps, _, captions = draw_batch(config, layout, batch, device)
    v, mask = guided(torch.compile(model), captions, guidance), layout.mask(device)

    @torch.no_grad()
    def sample() -> Tensor:
        with torch.autocast(device, torch.bfloat16, cache_enabled=False):
            return solve(v, eps, steps=STEPS, mask=mask)

    replay = captured(sample)
    return seconds({"sample": replay})["sample"]


def gpu_table(preset: STDiTConfig, layout: LatentLayout, device: str = "cuda") -> None:
    """Each row starts from an empty device."""
    print("| what | time | MFU | aim | |\n|---|---|---|---|---|")
    torch.set_float32_matmul_precision("high")

    def peak() -> str:
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device == "cuda" else ""

    def fresh() -> None:
        torch.compiler.reset()
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    dense_s = {}
    for packed in (False, True):
        config = dataclasses.replace(preset, packed=packed)
        tflop = 3e-12 * stdit_flops(config, layout)
        for batch in (2, 64):
            fresh()
            took = gpu_step(config, layout, batch, device)
            mfu = tflop * batch / took / PEAK_TFLOPS
            name = f"{'packed' if packed else 'dense'}, training step at batch {batch}, peak {peak()}"
            aim, met = ("12 ms", took < 0.012) if batch == 2 else ("65 %", mfu >= 0.65)
            row(name, f"{1e3 * took:.1f} ms", f"{100 * mfu:.0f} %", aim, met)
            if not packed:
                dense_s[batch] = took
            elif batch == 64:
                ratio = dense_s[batch] / took
                row("packed against dense at batch 64", f"{ratio:.2f} x", "", "1.3 x", ratio >= 1.3)
    for batch in (1, 16):
        for guidance in (1.0, 4.0):
            fresh()
            took = gpu_sampling(preset, layout, batch, guidance, device)
            name = f"dense, {STEPS} steps at batch {batch}, guidance {guidance:g}, peak {peak()}"
            aim = "0.15 s, decoding included" if batch == 1 else ""
            row(name, f"{took:.3f} s", "", aim, took < 0.15 if batch == 1 else None)


def main() -> None:
    paper = stdit_flops(STDIT_PRESETS["paper"], PAPER) / 1e12
    print(f"paper preset: {paper:.3f} TFLOP forward a sample, {3 * 64 * paper:.1f} a step at batch 64\n")
    cpu_table()
    if torch.cuda.is_available():
        print(f"\n{torch.cuda.get_device_name()}, paper preset, bf16; MFU of {PEAK_TFLOPS} TFLOP/s")
        gpu_table(STDIT_PRESETS["paper"], PAPER)
    else:
        print("\nno CUDA device: the paper preset is not timed")


if __name__ == "__main__":
    main()
