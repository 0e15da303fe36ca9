from __future__ import annotations

import pytest

from avmodel.training.watch import Watch


def printed(capsys, watch: Watch, *readings: dict[str, float]) -> list[str]:
    for step, scalars in enumerate(readings, 1):
        watch.scalars(10 * step, scalars)
    return capsys.readouterr().err.splitlines()


def losses(*values: float) -> list[dict[str, float]]:
    return [{"loss": value} for value in values]


def test_a_loss_that_doubles_is_warned_of_once_until_it_has_fallen(capsys):
    watch = Watch(("loss",), clip_grad=1.0)
    watch.best = "mdsa-best.pt, of step 10, is the best checkpoint so far"
    lines = printed(capsys, watch, *losses(1.0, 0.5, 0.9, 1.1, 1.2, 0.6, 1.3))
    assert [line.split(":")[0] for line in lines] == ["step 40", "step 70"]
    assert "loss is 1.1, 2.2 times its lowest (0.5 at step 20)" in lines[0]
    assert lines[0].endswith("mdsa-best.pt, of step 10, is the best checkpoint so far")


def test_the_total_may_jump_when_a_stage_begins(capsys):
    """Only the reconstruction is looked at, which the discriminators' terms are no part of."""
    watch = Watch(("v/l1", "a/l1"), clip_grad=1.0)
    stage1 = {"loss": 1.8, "v/l1": 0.2, "a/l1": 0.1}
    assert not printed(capsys, watch, stage1, stage1 | {"loss": 8.3})
    [line] = printed(capsys, watch, stage1 | {"a/l1": 0.6})
    assert "v/l1 + a/l1 is 0.8" in line


@pytest.mark.parametrize(
    ("scalars", "expected"),
    [
        ({"gradient_norm": 101.0, "gradient/gcm": 2.0, "gradient/heads": 100.0}, "most of it in heads"),
        ({"v/d2": 0.001}, "discriminator v/d2 tells all clips apart"),
        ({"data_wait": 0.7}, "70 % of the time is spent waiting for data: more `loader_workers`"),
    ],
)
def test_each_sign_is_warned_of(capsys, scalars, expected):
    quiet = {"gradient_norm": 99.0, "v/d2": 0.5, "data_wait": 0.4}
    assert not printed(capsys, Watch((), clip_grad=1.0), quiet, quiet)
    [line] = printed(capsys, Watch((), clip_grad=1.0), quiet, quiet | scalars)
    assert expected in line


def test_the_first_reading_may_wait_for_the_loader_to_start(capsys):
    assert not printed(capsys, Watch((), clip_grad=1.0), {"data_wait": 0.9})


def test_saturation_names_the_planes(capsys):
    watch = Watch((), clip_grad=1.0)
    watch.saturation(5, {"v_hw": 0.4, "a_tw": 0.2})
    watch.saturation(6, {"v_hw": 0.6, "a_tw": 0.2})
    watch.saturation(7, {"v_hw": 0.7, "a_tw": 0.2})
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("step 6: warning: saturated latents (v_hw 60 %, a_tw 20 %")


def test_planes_whose_spread_is_far_from_the_noises_are_named(capsys):
    Watch((), clip_grad=1.0).spread(0, {"v_hw": 0.5, "v_tw": 0.3}, of_noise=0.54)
    assert not capsys.readouterr().err
    Watch((), clip_grad=1.0).spread(0, {"v_hw": 0.5, "v_tw": 0.1, "a_th": 0.95}, of_noise=0.54)
    assert "noise, 0.54: v_tw 0.100, a_th 0.950. Near 0" in capsys.readouterr().err


def test_other_ranks_print_nothing(capsys):
    watch = Watch(("loss",), clip_grad=1.0, is_first=False)
    assert not printed(capsys, watch, *losses(1.0, 9.0))
