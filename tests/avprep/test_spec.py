import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avprep.spec import ClipSpec, SpecError


def test_the_papers_spec():
    spec = ClipSpec()
    assert (spec.samples, spec.samples_per_frame, spec.columns) == (25600, 1600, 16)
    assert spec.mel_shape == (16, 128, 16)
    assert spec.frames_shape == (16, 256, 256, 3)
    assert (spec.samples_before, spec.samples_after) == (512, 412)
    assert float(spec.seconds) == 1.6


def test_the_context_is_exactly_what_the_columns_windows_reach():
    spec = ClipSpec()
    last_column_begins = (spec.frames * spec.columns - 1) * spec.hop
    context = spec.samples_before + spec.samples + spec.samples_after
    assert last_column_begins + spec.n_fft == context


@pytest.mark.parametrize(
    ("field", "value"),
    [("fps", 0), ("frames", -1), ("size", 255), ("hop", 2048), ("n_mels", 600), ("fps", 10.0)],
)
def test_a_field_out_of_range_names_itself_and_its_value(field, value):
    with pytest.raises(SpecError, match=rf"{field}.*{value}"):
        ClipSpec(**{field: value})


def test_a_broken_w_names_the_nearest_specs_that_work():
    with pytest.raises(SpecError) as error:
        ClipSpec(hop=96)
    assert "hop 80 or 100" in str(error.value)
    for hop in (80, 100):
        ClipSpec(hop=hop)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"fps": 30}, "work: sample_rate 24000; fps"),
        ({"fps": 24}, "work: sample_rate 24000; fps"),
        (
            {"fps": 25},
            "work: hop 80 or 128; fps 20 or 32; sample_rate 15000 or 17500$",
        ),  # no common rate works
        ({"fps": 10, "hop": 98}, "work: sample_rate 44100; hop"),
    ],
)
def test_a_common_sample_rate_that_works_is_named_first(fields: dict, words: str):
    with pytest.raises(SpecError, match=words):
        ClipSpec(**fields)


@given(st.integers(1, 60), st.integers(1, 400), st.integers(4000, 48000))
def test_every_spec_named_as_working_works(fps, hop, rate):
    try:
        ClipSpec(fps=fps, hop=hop, sample_rate=rate)
    except SpecError as error:
        found = str(error).split("that work: ")[-1]
        for part in found.split("; "):
            name, _, values = part.partition(" ")
            if name in ("fps", "hop", "sample_rate"):
                for value in values.split(" or "):
                    fields = {"fps": fps, "hop": hop, "sample_rate": rate} | {name: int(value)}
                    assert fields["sample_rate"] % (fields["fps"] * fields["hop"]) == 0


def test_the_spec_survives_json_and_refuses_unknown_fields():
    spec = ClipSpec(frames=8, size=64)
    assert ClipSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    with pytest.raises(SpecError, match="colour"):
        ClipSpec.from_dict(spec.to_dict() | {"colour": 1})
