"""What a config costs, by exact counting and without computing anything: what `avmodel info` prints.

Tensors are fake, with shapes and no values, so that full-size models take seconds and no memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from avmodel.config import MDSAConfig, STDiTConfig
from avmodel.dit.model import Captions, STDiT
from avmodel.latents import LatentLayout
from avmodel.mdsa.model import MDSA, Clips, StreamDecoder, StreamEncoder


def mdsa_report(config: MDSAConfig) -> str:
    """Parameters, FLOPs and activation memory of the autoencoder, as aligned lines."""
    parameters = mdsa_parameters(config)
    lines = ["parameters"]
    lines += [f"  {name:<{_NAME}}{count:>{_NUMBER},}" for name, count in parameters.items()]
    lines += [f"  {'total':<{_NAME}}{sum(parameters.values()):>{_NUMBER},}"]
    lines += ["FLOPs per clip (2 for a multiply-add; matrix products, convolutions and attention)"]
    lines += [f"  {name:<{_NAME}}{n / 1e9:>{_NUMBER},.3f} G" for name, n in mdsa_flops(config).items()]
    lines += [
        "activation memory per clip: peak of an eager forward and backward, beyond weights and gradients"
    ]
    for dtype in (torch.float32, torch.bfloat16):
        for recompute, name in ((False, ""), (True, ", checkpointed")):
            size = mdsa_activation_bytes(config, dtype=dtype, checkpoint_activations=recompute)
            label = f"{str(dtype).removeprefix('torch.')}{name}"
            lines.append(f"  {label:<{_NAME}}{size / 2**20:>{_NUMBER},.1f} MiB")
    return "\n".join(lines)


_NAME, _NUMBER = 28, 16  # columns


def stdit_report(config: STDiTConfig, layout: LatentLayout) -> str:
    """Parameters, tokens and FLOPs of the diffusion transformer on latents of `layout`, as aligned lines."""
    parameters = stdit_parameters(config, layout)
    lines = [f"parameters, captions of {config.caption_dim} values per token"]
    lines += [f"  {name:<{_NAME}}{count:>{_NUMBER},}" for name, count in parameters.items()]
    lines += [
        f"  {'total':<{_NAME}}{sum(parameters.values()):>{_NUMBER},}",
        "  beside it a learned null caption and, for labels, a table of them",
        "FLOPs per sample, of a forward pass (a training step takes three times as many)",
    ]
    for name, packed in (("dense", False), ("packed", True)):
        variant = replace(config, packed=packed)
        tokens, flops = stdit_tokens(variant, layout), stdit_flops(variant, layout)
        lines.append(f"  {f'{name}, {tokens:,} tokens':<{_NAME}}{flops / 1e9:>{_NUMBER},.3f} G")
    return "\n".join(lines)


def stdit_parameters(config: STDiTConfig, layout: LatentLayout) -> dict[str, int]:
    """Parameters by part, without the learned null caption and the label table."""
    with torch.device("meta"):
        model = STDiT(config, layout)
    parts = {
        "patches in": model.patch_in,
        "time": model.time,
        "time to shifts and gates": model.time_to_table,
        "caption": model.caption,
        f"{config.depth} blocks": model.blocks,
        "patches out": model.patch_out,
    }
    return {name: count_parameters(part) for name, part in parts.items()} | {
        "last shifts": model.table.numel()
    }


def stdit_tokens(config: STDiTConfig, layout: LatentLayout) -> int:
    with torch.device("meta"):
        return len(STDiT(config, layout).grid.index)


def stdit_flops(config: STDiTConfig, layout: LatentLayout) -> int:
    """FLOPs of one sample's forward pass with a caption of the most tokens."""
    with FakeTensorMode():
        model = STDiT(config, layout)
        tokens = torch.empty(1, config.caption_tokens, config.caption_dim)
        captions = Captions(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))
        z, t = torch.empty(1, *layout.shape), torch.empty(1)
        return count_flops(lambda: model(z, t, captions))


@cache
def mdsa_training_flops(config: MDSAConfig) -> int:
    """FLOPs of the autoencoder per clip, forward and backward, without recomputation. Takes seconds, once."""
    with FakeTensorMode():
        model, clips = MDSA(config), _clips(config)
        return count_flops(lambda: _step(model, clips))


def stdit_training_flops(config: STDiTConfig, layout: LatentLayout, places: int) -> int:
    """FLOPs per sample, forward and backward. Takes seconds, once.

    Args:
        places: tokens of the caption, with padding. FLOPs are linear in them, so two counts are enough.
    """
    few, more = (_stdit_step_flops(config, layout, counted) for counted in (1, 2))
    return few + (places - 1) * (more - few)


@cache
def _stdit_step_flops(config: STDiTConfig, layout: LatentLayout, places: int) -> int:
    with FakeTensorMode():
        model = STDiT(config, layout)
        labels, embeddings = torch.zeros(1, places, dtype=torch.long), (1, places, config.caption_dim)
        tokens = labels if config.classes else torch.empty(embeddings)
        captions = Captions(tokens, torch.ones(1, places, dtype=torch.bool))
        z, t = torch.empty(1, *layout.shape), torch.empty(1)
        return count_flops(lambda: model(z, t, captions).sum().backward())


def mdsa_parameters(config: MDSAConfig) -> dict[str, int]:
    """Parameters by part; the parts sum to the whole."""
    with torch.device("meta"):
        model = MDSA(config)
    parts: dict[str, nn.Module | None] = {}
    for stream in config.channels:
        encoder = cast(StreamEncoder, model.encoders[stream])
        decoder = cast(StreamDecoder, model.decoders[stream])
        parts |= {
            f"{stream} patch embedding": encoder.embedding,
            f"{stream} encoder": encoder.timesformer,
            f"{stream} projectors": encoder.projectors,
            f"{stream} SelfAttn on hw": encoder.attention.hw,
            f"{stream} MT-SelfAttn": encoder.attention.time,
            f"{stream} decoder": decoder.timesformer,
            f"{stream} pixels": decoder.pixels,
        }
    parts |= {"GCM-Attn": model.gcm, "Bi-Block CrossAttn": model.bi_block}
    parts |= {"to mean and log-variance": model.heads, "from the latent": model.embeddings}
    counts = {name: count_parameters(part) for name, part in parts.items() if part is not None}
    return {name: count for name, count in counts.items() if count}


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def mdsa_flops(config: MDSAConfig) -> dict[str, int]:
    """FLOPs per clip: encode, decode, and forward with backward. Losses and their networks are not in it."""
    with FakeTensorMode():
        model, checkpointed = MDSA(config), MDSA(config, checkpoint_activations=True)
        clips, latent = _clips(config), torch.empty(1, *config.layout.shape)
        return {
            "encode": count_flops(lambda: model.encode(clips)),
            "decode": count_flops(lambda: model.decode(latent)),
            "forward and backward": count_flops(lambda: _step(model, clips)),
            "the same, checkpointed": count_flops(lambda: _step(checkpointed, clips)),
        }


def count_flops(run: Callable[[], Any]) -> int:
    """FLOPs of a run, without the elementwise ones."""
    counter = FlopCounterMode(display=False)
    # The counter knows matrix products and not the CPU's flash kernel.
    with counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


def mdsa_activation_bytes(
    config: MDSAConfig, *, dtype: torch.dtype, checkpoint_activations: bool, batch: int = 1
) -> int:
    """The most that forward and backward hold at a time beyond weights and gradients, run eagerly.

    Args:
        dtype: bfloat16 stands for autocast, whose cast weights are counted too.
    """
    with FakeTensorMode():
        model = MDSA(config, checkpoint_activations=checkpoint_activations)
        clips = _clips(config, batch)
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        cast = torch.autocast("cpu", dtype) if dtype != torch.float32 else nullcontext()
        with PeakMemory() as memory:
            _step(model, clips, cast)
    return memory.peak


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all storages that operations make inside it, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and id(tensor.untyped_storage()) not in given:
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        size = storage.nbytes()
        self._seen.add(storage)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self.live -= size


def _step(model: MDSA, clips: Clips, cast: Any = None) -> None:
    """Forward and backward of stage 2, from a loss that costs nothing."""
    with cast or nullcontext():
        reconstruction, posterior = model(clips, sample=True)
    outputs = [*reconstruction.values(), posterior.logvar]
    torch.autograd.backward(outputs, [torch.empty_like(output) for output in outputs])


def _clips(config: MDSAConfig, batch: int = 1) -> Clips:
    shape = (config.frames, config.size, config.size)
    return {stream: torch.empty(batch, channels, *shape) for stream, channels in config.channels.items()}
