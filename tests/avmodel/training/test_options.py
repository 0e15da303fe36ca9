from __future__ import annotations

import dataclasses
from dataclasses import dataclass, fields, make_dataclass, replace
from pathlib import Path

import pytest

from avmodel.config import MDSA_PRESETS, STDIT_PRESETS
from avmodel.dit.options import DiTTrainingOptions
from avmodel.mdsa.options import LPIPSConfig, MDSATrainingOptions
from avmodel.training.errors import TrainingError
from avmodel.training.options import TrainingOptions, adjustable_of, identity_of, refuse_differences, runtime

MDSA = MDSATrainingOptions(clips=Path("c"), out=Path("o"), model=MDSA_PRESETS["tiny"])
DIT = DiTTrainingOptions(latents=Path("l"), out=Path("o"), model=STDIT_PRESETS["tiny"])
SHARED = {"peak_tflops", "out", "start_from", "loader_workers", "compile", "device", "on_damage"}
SHARED |= {"select", "shares"}  # what they choose is compared
EVERY = {"log_every", "eval_every", "checkpoint_every", "milestone_every"}
ADJUSTABLE = {"accumulate", "eval_clips", "keep"} | EVERY


@pytest.mark.parametrize(
    ("options", "free"),
    [
        (MDSA, SHARED | {"clips", "checkpoint_activations"}),
        (DIT, SHARED | {"latents", "mdsa"}),
    ],
    ids=["mdsa", "dit"],
)
def test_every_field_is_compared_kept_or_of_the_machine(options, free):
    steps = {"stage1_steps", "stage2_steps", "gradient_share_every"} if options is MDSA else {"steps"}
    assert adjustable_of(options).keys() == ADJUSTABLE | steps
    compared = {field.name for field in fields(options)} - free - ADJUSTABLE - steps
    assert identity_of(options).keys() == compared


@pytest.mark.parametrize("options", [MDSA, DIT], ids=["mdsa", "dit"])
def test_a_new_field_is_compared_without_being_listed_anywhere(options):
    extended = make_dataclass(
        "Extended", [("jitter", float, 0.0)], bases=(type(options),), frozen=True, kw_only=True
    )
    now = extended(**{field.name: getattr(options, field.name) for field in fields(options)}, jitter=0.5)
    then = identity_of(replace(now, jitter=0.25))
    with pytest.raises(TrainingError, match="begun with jitter = 0.25, and this run has jitter = 0.5"):
        refuse_differences(then, identity_of(now), Path("state.pt"))


def test_a_new_field_of_a_nested_dataclass_is_compared_too():
    @dataclass(frozen=True)
    class Inner:
        old: int = 1
        new: int = 2
        free: int = runtime(3)

    @dataclass(frozen=True)
    class Outer:
        inner: Inner = Inner()

    assert identity_of(Outer()) == {"inner": {"old": 1, "new": 2}}
    with pytest.raises(TrainingError, match="inner.new = 5, and this run has inner.new = 2"):
        refuse_differences(identity_of(Outer(Inner(new=5))), identity_of(Outer()), Path("state.pt"))


def test_an_entry_that_an_old_checkpoint_lacks_is_not_compared_and_one_that_went_is():
    refuse_differences({"a": 1}, {"a": 1, "b": 2, "c": {"d": 3}}, Path("state.pt"))
    with pytest.raises(TrainingError, match="begun with b = 2, and this run has b = None"):
        refuse_differences({"a": 1, "b": 2}, {"a": 1}, Path("state.pt"))


def test_lists_and_paths_are_compared_as_a_checkpoint_gives_them_back():
    identity = identity_of(replace(MDSA, lpips=LPIPSConfig(heads=Path("moved.pth"))))
    assert identity["model"]["block"] == [2, 2, 2] and identity["lpips"] == {"backbone": "vgg16"}


@pytest.mark.timeout(20)
def test_a_hostile_identity_is_shown_in_short():
    value: list = ["x" * 1000]
    for _ in range(60):
        value = [value, value]
    with pytest.raises(TrainingError) as caught:
        refuse_differences({"labels": value, "b": 1}, {"labels": ["cat"], "b": 1}, Path("state.pt"))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 0), ("lr", 0.0), ("lr", float("nan")), ("checkpoint_every", -1)]
)
def test_a_value_out_of_range_is_named(name, value):
    with pytest.raises(TrainingError, match=f"^{name} must be above 0, not {value}"):
        replace(DIT, **{name: value})
    with pytest.raises(TrainingError, match="^stage1_steps = 0 and `stage2_steps` = 0: nothing is trained"):
        replace(MDSA, stage1_steps=0)


@pytest.mark.parametrize(("steps", "expected"), [(4000, 400), (200_000, 5000), (5, 0)])
def test_the_default_warm_up_is_a_tenth_of_the_steps_up_to_5000(steps, expected):
    assert replace(DIT, steps=steps, warmup_steps=None).warmup_steps == expected
    assert replace(DIT, steps=steps, warmup_steps=7).warmup_steps == 7


def test_what_both_trainings_take_stands_once():
    for options in (MDSATrainingOptions, DiTTrainingOptions):
        assert issubclass(options, TrainingOptions) and dataclasses.is_dataclass(options)
