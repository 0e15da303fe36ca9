"""Hostile checkpoints: every entry of a whole one replaced by every odd value, and bytes of it changed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch

Place = tuple[str | int, ...]  # the keys from the payload to one of its entries

ODD_VALUES: dict[str, Any] = {
    "None": None,
    "true": True,
    "-1": -1,
    "0": 0,
    "1": 1,
    "10^9": 10**9,
    "10^30": 10**30,
    "1.5": 1.5,
    "NaN": float("nan"),
    "Inf": float("inf"),
    "no text": "",
    "text": "sixteen",
    "a terminal's escape": "\x1b[2J\x1b[31m\nError: all is well\u202e",
    "a megabyte of text": "x" * 2**20,
    "bytes": b"\xff\0",
    "no list": [],
    "a list": [0, -1, None],
    "a long list": [1] * 10_000,
    "no dict": {},
    "a dict": {"a": {1: {}}},
    "a tensor": torch.ones(3),
    "a number as a tensor": torch.tensor(16),
    "a tensor of 4 TB": torch.ones(1).expand(10**12),
    "a tensor of no values": torch.ones(0),
    "a tensor of bools": torch.ones(2, dtype=torch.bool),
    "a sparse tensor": torch.ones(3).to_sparse(),
    "a tensor on no device": torch.empty(3, device="meta"),
}
_FEW_TENSORS = 2  # of a dict of many: the others are read by the same code


def places(payload: dict[str, Any]) -> Iterator[Place]:
    """Every entry, outer ones before those within."""
    waiting: list[tuple[Place, Any]] = [((), payload)]
    for place, value in waiting:
        if place:
            yield place
        if isinstance(value, dict):
            is_weights = len(value) > _FEW_TENSORS and all(
                isinstance(v, torch.Tensor) for v in value.values()
            )
            items = list(value.items())
            waiting += [
                ((*place, key), item) for key, item in (items[:_FEW_TENSORS] if is_weights else items)
            ]


def replaced(payload: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    """A copy with one entry replaced."""
    first, *rest = place
    return payload | {first: replaced(payload[first], tuple(rest), value) if rest else value}


def without(payload: dict[str, Any], place: Place) -> dict[str, Any]:
    """A copy without one entry."""
    first, *rest = place
    if rest:
        return payload | {first: without(payload[first], tuple(rest))}
    return {key: value for key, value in payload.items() if key != first}


def damaged(data: bytes, seed: int) -> bytes:
    """The bytes of a checkpoint with a few of them changed, cut out or said twice."""
    rng = random.Random(seed)
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 8, 64))):
        at = rng.randrange(len(changed))
        match rng.randrange(4):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at : at + 8] = rng.randbytes(8)
            case 2:
                del changed[at : at + rng.randrange(1, 5000)]
            case _:
                changed[at:at] = changed[at : at + rng.randrange(1, 500)]
    return bytes(changed)
