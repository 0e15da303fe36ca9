"""The share of each loss term in the gradient: known values, and a training that it does not change."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from avmodel.data import ClipData
from avmodel.mdsa import train as module
from avmodel.mdsa.gradient_shares import GradientShares, shares_of
from avmodel.mdsa.losses import LossWeights, kl_divergence
from avmodel.mdsa.model import Posterior
from avmodel.mdsa.train import train_mdsa
from avmodel.training.checkpoints import load_checkpoint
from avmodel.training.errors import TrainingError
from avmodel.training.machine import DistributedContext
from tests.avmodel.dit.made_training import losses, rows, same
from tests.avmodel.mdsa.made_training import config

CPU = DistributedContext(torch.device("cpu"))
NORMS = st.floats(1e-3, 1e3)


def shares(row: dict[str, float], stream: str) -> dict[str, float]:
    prefix = f"gradient_share/{stream}/"
    return {name.removeprefix(prefix): share for name, share in row.items() if name.startswith(prefix)}


# --- known values


def test_two_terms_of_known_gradients():
    weight = torch.zeros(2, 1, requires_grad=True)
    terms = {"l1": (weight * torch.tensor([[3.0], [4.0]])).sum(), "gan": -15 * weight[0, 0]}
    assert {name: share.item() for name, share in shares_of(terms, weight).items()} == {
        "l1": 0.25,
        "gan": 0.75,
    }


@given(st.lists(NORMS, min_size=1, max_size=5))
def test_shares_are_in_proportion_to_the_norms_and_sum_to_1(norms: list[float]):
    weight = torch.zeros(1, requires_grad=True)
    found = shares_of({str(i): (norm * weight).sum() for i, norm in enumerate(norms)}, weight)
    assert [share.item() for share in found.values()] == pytest.approx([n / sum(norms) for n in norms])


def test_terms_without_any_gradient_have_shares_of_0():
    weight = torch.zeros(1, requires_grad=True)
    assert shares_of({"l1": (0 * weight).sum()}, weight)["l1"] == 0


def posterior(streams: int) -> tuple[Posterior, Tensor]:
    """A posterior whose means are 1 everywhere, and the leaf that it is made of: (B,C,P,rows,columns)."""
    leaf = torch.ones(2, 1, 3 * streams, 1, 1, requires_grad=True)
    ones = torch.ones_like(leaf)
    return Posterior(leaf * 1, ones * 0, ones[0, 0].bool()), leaf


def test_kl_is_compared_with_all_other_terms_at_the_stream_s_own_means():
    """Here KL's gradient is mean / B = 1/2 per value, and the rest's 3/2 for v and 1/6 for a."""
    made, _ = posterior(streams=2)
    layers = {stream: torch.ones(1, requires_grad=True) for stream in "va"}
    of_v, of_a = made.mean[:, :, :3].sum(), made.mean[:, :, 3:].sum()
    weighted = {
        "v": {"l1": of_v * layers["v"].sum(), "kl": kl_divergence(*made.of_stream(0))},
        "a": {"l1": (of_v / 2 + of_a / 6) * layers["a"].sum(), "kl": kl_divergence(*made.of_stream(1))},
    }
    measured = GradientShares(weighted, layers, made)
    scale = 0.25
    (scale * torch.stack([term for terms in weighted.values() for term in terms.values()]).sum()).backward()
    assert {name: share.item() for name, share in measured.read(scale).items()} == pytest.approx(
        {"gradient_share/v/l1": 1, "gradient_share/a/l1": 1, "kl_share/v": 0.25, "kl_share/a": 0.75}
    )


def test_measuring_changes_no_gradient():
    def gradients(is_measured: bool) -> list[Tensor]:
        made, leaf = posterior(streams=1)
        layer = torch.full((1,), 0.3, requires_grad=True)
        terms = {"l1": made.mean.sin().sum() * layer.sum(), "kl": 0.7 * kl_divergence(*made.of_stream(0))}
        measured = GradientShares({"v": terms}, {"v": layer}, made) if is_measured else None
        (terms["l1"] + terms["kl"]).backward()
        if measured is not None:
            measured.read(1.0)
        return [leaf.grad, layer.grad]

    assert all(map(torch.equal, gradients(True), gradients(False)))


# --- in a training


def test_a_training_logs_the_shares_of_its_terms_every_so_many_steps(clips, tmp_path):
    train_mdsa(config(clips, tmp_path, stage1_steps=2, stage2_steps=4, disc_start=2, gradient_share_every=2))
    steps = {row["step"]: row for row in rows(tmp_path) if "loss" in row}
    assert [step for step, row in steps.items() if shares(row, "v")] == [2, 4, 6]
    for stream in "va":
        assert [list(shares(steps[step], stream)) for step in (2, 4, 6)] == [
            ["l1"],
            ["l1"],
            ["l1", "gan", "fm"],
        ]
        for step in (2, 4, 6):
            assert sum(shares(steps[step], stream).values()) == pytest.approx(1, abs=1e-5)
        assert f"kl_share/{stream}" not in steps[2]  # stage 1 has no KL
        assert 0 < steps[4][f"kl_share/{stream}"] < 1


def test_twice_the_weight_doubles_the_odds_of_a_term(clips, tmp_path):
    """A share is n / (n + rest), so share / (1 - share) is n / rest."""
    changes = {"stage1_steps": 0, "stage2_steps": 1, "disc_start": 0, "gradient_share_every": 1}
    odds: list[tuple[float, float]] = []
    for fm, kl in ((4.0, 1e-3), (8.0, 1e-3), (4.0, 2e-3)):
        out = tmp_path / f"{fm}-{kl}"
        train_mdsa(config(clips, out, **changes, loss=LossWeights(fm=fm, kl=kl)))
        [row] = [row for row in rows(out) if "loss" in row]
        fm_odds, kl_odds = (share / (1 - share) for share in (shares(row, "a")["fm"], row["kl_share/a"]))
        odds.append((fm_odds, kl_odds))
    first, more_fm, more_kl = odds
    assert more_fm[0] == pytest.approx(2 * first[0], rel=1e-3)
    assert more_kl[0] == pytest.approx(first[0], rel=1e-3)
    assert more_kl[1] == pytest.approx(2 * first[1], rel=1e-3)


def test_the_adaptive_factor_gives_the_adversarial_terms_a_share_like_the_others(clips, tmp_path):
    """The gradient of their sum is as large as that of l1, so their own norms sum to at least as much."""
    changes = {"stage1_steps": 0, "stage2_steps": 1, "disc_start": 0, "gradient_share_every": 1}
    train_mdsa(config(clips, tmp_path, **changes, adaptive_gan=True))
    [row] = [row for row in rows(tmp_path) if "loss" in row]
    found = shares(row, "v")
    assert found["gan"] + found["fm"] >= 0.5 - 1e-3
    assert math.isclose(sum(found.values()), 1, abs_tol=1e-5)


@pytest.mark.parametrize("kl", ["data", "none"])
def test_a_kl_over_pixels_is_one_of_the_terms_of_the_last_layer(clips, tmp_path, kl):
    made = config(clips, tmp_path, stage1_steps=0, stage2_steps=1, gradient_share_every=1)
    train_mdsa(module.replace(made, model=module.replace(made.model, kl=kl)))
    [row] = [row for row in rows(tmp_path) if "loss" in row]
    assert ("kl" in shares(row, "v")) == (kl == "data") and "kl_share/v" not in row


def weights(out: Path) -> dict[str, Tensor]:
    return load_checkpoint(out / "mdsa.pt", "mdsa")["weights"]


def test_weights_and_losses_are_bit_equal_with_and_without(clips, tmp_path):
    changes = {"stage1_steps": 2, "stage2_steps": 3, "accumulate": 2, "batch_size": 4, "disc_start": 1}
    for every in (0, 1):
        train_mdsa(config(clips, tmp_path / str(every), **changes, gradient_share_every=every))
    assert losses(tmp_path / "0") == losses(tmp_path / "1")
    assert same(weights(tmp_path / "0"), weights(tmp_path / "1"))
    assert not any(name.startswith("gradient_share") for row in rows(tmp_path / "0") for name in row)


class _Readings(TorchDispatchMode):
    """Counts what waits for a device: a value that is read by Python."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@contextmanager
def readings() -> Iterator[_Readings]:
    with _Readings() as mode:
        yield mode


def test_a_measured_step_reads_nothing_from_the_device(clips, tmp_path):
    counts = []
    for every in (0, 1):
        changes = {"stage1_steps": 0, "stage2_steps": 9, "disc_start": 0, "gradient_share_every": every}
        trainer = module.MDSATrainer(config(clips, tmp_path, **changes), CPU, ClipData(clips))
        batches = trainer.next_batches()
        trainer.train_step(batches)
        with readings() as mode:
            trainer.train_step(batches)
        counts.append(mode.count)
    assert counts[0] == counts[1]


def test_a_number_of_steps_below_0_is_refused(clips, tmp_path):
    with pytest.raises(TrainingError, match="gradient_share_every must be at least 0, not -1"):
        config(clips, tmp_path, gradient_share_every=-1)
