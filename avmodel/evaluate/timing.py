"""The paper's Table 3: seconds per training step and per generated clip, on the named device.

Weights are random: the time does not depend on their values.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict

import torch

from avmodel.config import MDSA_PRESETS, STDIT_PRESETS
from avmodel.dit.flow import draw_source, draw_times, flow_loss, solve
from avmodel.dit.guidance import guided
from avmodel.dit.model import Captions, STDiT
from avmodel.evaluate.options import TimingOptions
from avmodel.evaluate.published import TIMING_TABLE, rows_of
from avmodel.evaluate.report import Measurement, Report
from avmodel.mdsa.model import MDSA
from avmodel.training.machine import DistributedContext
from avprep.dsp.device import choose_device

GUIDANCE = 4.0  # the default of sampling


def time_models(options: TimingOptions) -> Report:
    """Times a training step of the STDiT, and the generation of one clip, decoding included.

    Raises:
        TrainingError: no such device.
    """
    torch.manual_seed(0)
    context = DistributedContext(choose_device(options.device))
    mdsa = MDSA(MDSA_PRESETS[options.preset]).to(context.device).eval()
    config = STDIT_PRESETS[options.preset]
    dit = STDiT(config, MDSA_PRESETS[options.preset].layout).to(context.device)
    timed = {
        f"seconds per training step, batch {options.batch_size}": _training_step(dit, options, context),
        f"seconds per sample, {options.sampling_steps} steps": _sampling(dit, mdsa, options, context),
    }
    rows = [
        _measured(name, step, options.repeats, context, note)
        for (name, step), note in zip(timed.items(), (_TRAINED, _SAMPLED), strict=True)
    ]
    count = sum(p.numel() for model in (mdsa, dit) for p in model.parameters())
    rows.append(
        Measurement(
            metric="parameters", side="generated", value=count, note="MDSA and STDiT, without a text encoder"
        )
    )
    device = device_name(context.device)
    measured = f"{options.preset}, {device}, {_precision(context)}, median of {options.repeats}"
    return Report(
        protocol=f"timing: preset {measured}",
        described={"options": asdict(options), "device": device, "torch": torch.__version__},
        measurements=tuple(rows),
        table=TIMING_TABLE,
        published=tuple(rows_of(TIMING_TABLE)),
    )


_TRAINED = "STDiT: forward, backward and AdamW on cached latents"
_SAMPLED = f"guidance {GUIDANCE:g}, Euler, with decoding to frames and mel"


def device_name(device: torch.device) -> str:
    """'NVIDIA H100', or the processor's name with the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _precision(context: DistributedContext) -> str:
    return "bfloat16" if context.on_gpu else "float32"


def _training_step(dit: STDiT, options: TimingOptions, context: DistributedContext) -> Callable[[], None]:
    generator = torch.Generator(context.device).manual_seed(0)
    optimizer = torch.optim.AdamW(dit.parameters(), lr=1e-6, fused=context.on_gpu)
    shape = (options.batch_size, *dit.layout.shape)
    mask = dit.layout.mask(context.device)
    captions = _captions(dit, options.batch_size, context.device)
    z1 = draw_source(shape, generator).masked_fill(~mask, 0)

    def step() -> None:
        eps, t = draw_source(shape, generator), draw_times(options.batch_size, generator)
        with context.autocast():
            loss = flow_loss(lambda z, at: dit(z, at, captions), z1, eps, t, mask).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _sampling(
    dit: STDiT, mdsa: MDSA, options: TimingOptions, context: DistributedContext
) -> Callable[[], None]:
    eps = draw_source((1, *dit.layout.shape), torch.Generator(context.device).manual_seed(0))
    mask, captions = dit.layout.mask(context.device), _captions(dit, 1, context.device)

    @torch.inference_mode()
    def sample() -> None:
        with context.autocast():
            z = solve(guided(dit, captions, GUIDANCE), eps, steps=options.sampling_steps, mask=mask)
            mdsa.decode(z)

    return sample


def _captions(dit: STDiT, batch: int, device: torch.device) -> Captions:
    config = dit.config
    tokens = torch.zeros(batch, config.caption_tokens, config.caption_dim, device=device)
    return Captions(tokens, torch.ones(batch, config.caption_tokens, dtype=torch.bool, device=device))


def _measured(
    name: str, step: Callable[[], None], repeats: int, context: DistributedContext, note: str
) -> Measurement:
    step()  # the first one allocates and chooses kernels
    found = []
    for _ in range(repeats):
        _wait(context)
        started = time.perf_counter()
        step()
        _wait(context)
        found.append(time.perf_counter() - started)
    spread = f"from {min(found):.3g} to {max(found):.3g}"
    value = statistics.median(found)
    return Measurement(metric=name, side="generated", value=value, better="lower", note=f"{note}; {spread}")


def _wait(context: DistributedContext) -> None:
    if context.on_gpu:
        torch.cuda.synchronize(context.device)
