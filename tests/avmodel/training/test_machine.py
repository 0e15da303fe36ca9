from __future__ import annotations

import torch

from avmodel.training.machine import (
    DistributedContext,
    open_distributed,
)

CPU = torch.device("cpu")


def test_random_numbers_depend_on_the_seeds_only():
    def draw(*seeds: int, rank: int = 0) -> torch.Tensor:
        return torch.rand(8, generator=DistributedContext(CPU, rank, 2).generator(*seeds))

    assert torch.equal(draw(1, 5), draw(1, 5, rank=1))
    different = [draw(1, 5), draw(1, 6), draw(2, 5), draw(5, 1), draw(1, 5, 0), draw(1, 5, 1)]
    for i, a in enumerate(different):
        assert not any(torch.equal(a, b) for b in different[i + 1 :])


def test_one_process_alone_needs_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with open_distributed("cpu") as context:
        assert (context.rank, context.world, context.is_first, context.on_gpu) == (0, 1, True, False)
        assert context.agreed(2) == 2 and context.max(torch.ones(2)).tolist() == [1, 1]
        assert context.mean(torch.ones(2)).tolist() == [1, 1]
        module = torch.nn.Linear(1, 1)
        assert context.parallel(module) is module
