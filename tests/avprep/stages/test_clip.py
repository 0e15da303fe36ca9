"""The clip stage on sources that are made of numbers: rows, filters, trials, and what is tried again."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

import avprep.stages.clip
from avprep.dsp.mel import context_samples
from avprep.errors import ArgumentError
from avprep.media.decode import FailedClip, RawClip
from avprep.media.sound import ClipSound
from avprep.reasons import MediaError, Reason
from avprep.shards.clips import clip_key, load_npy, load_waveform, unpack_frames
from avprep.shards.ledger import read_ledger
from avprep.shards.store import open_store
from avprep.shards.tar import read_shard
from avprep.spec import ClipSpec
from avprep.stages.clip import made_clips, make_shard
from avprep.stages.options import ClipOptions
from avprep.stages.tasks import ClipText, PlannedSource, ShardTask

SPEC = ClipSpec(frames=4, size=16, n_mels=16, n_fft=256)
CORRUPT = MediaError(Reason.CORRUPT, "a damaged frame")


def raw(start: int, *, level: int = 100, moves: int = 10, gain: float = 0.1, residual_ms: float = 0.0):
    frames = np.full(SPEC.frames_shape, level, np.uint8)
    frames += (moves * (np.arange(SPEC.frames) % 2)).astype(np.uint8)[:, None, None, None]
    phase = np.arange(start - SPEC.samples_before, start - SPEC.samples_before + context_samples(SPEC))
    waveform = (gain * np.sin(phase * 0.2)).astype(np.float32)
    times = [start / SPEC.sample_rate + i / SPEC.fps for i in range(SPEC.frames)]
    sound = ClipSound(waveform=waveform, sounding_s=float(SPEC.seconds), is_cancelled=False)
    return RawClip(start, frames, times, residual_ms, sound)


@pytest.fixture
def media(monkeypatch) -> dict[str, list]:
    """{source: its clips in order, or what is raised in their place}."""
    files: dict[str, list] = {}

    def read_source(path, starts, **_):
        for clip in files[path.rsplit("/", 1)[1]]:
            if isinstance(clip, MediaError):
                raise clip
            if clip.start in starts:
                yield clip

    monkeypatch.setattr(avprep.stages.clip, "read_source", read_source)
    return files


def task(tmp_path, *sources: PlannedSource, **options) -> ShardTask:
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "media").mkdir(exist_ok=True)
    (tmp_path / "media" / "there").touch()
    return ShardTask(
        index=3,
        sources=sources,
        root=str(tmp_path / "media"),
        out=str(tmp_path / "out"),
        options=ClipOptions(spec=SPEC, **options),
        fingerprint="f" * 32,
        source_timeout_s=60.0,
    )


def rows_of(tmp_path):
    return read_ledger(open_store(tmp_path / "out"), 3)[0]


def clips_of(tmp_path):
    with open(tmp_path / "out" / "shards" / "clips-000003.tar", "rb") as file:
        return dict(read_shard(file))


def test_a_clip_is_stored_with_its_header_and_its_own_samples(media, tmp_path):
    media["a"] = [raw(0), raw(6400)]
    texts = (ClipText(("dog",), "a video of dog", "labels"), ClipText(("rain",), "it rains", "source"))
    source = PlannedSource(path="a", starts=(0, 6400), texts=texts)
    result = make_shard(task(tmp_path, source))
    stored = clips_of(tmp_path)
    members = stored[clip_key("a", 6400)]
    header = json.loads(members["json"])
    assert (header["source"], header["start_s"], header["stop_s"]) == ("a", 0.4, 0.8)
    assert (header["labels"], header["caption"], header["has_audio"]) == (["rain"], "it rains", True)
    assert header["caption_from"] == "source"
    assert json.loads(stored[clip_key("a", 0)]["json"])["labels"] == ["dog"]
    assert np.array_equal(unpack_frames(members, SPEC.frames_shape, None), raw(0).frames)
    own = raw(6400).sound.waveform[SPEC.samples_before :][: SPEC.samples]
    assert np.abs(load_waveform(members["audio.flac"], SPEC) - own).max() <= 1 / 32768
    assert load_npy(members["mel.npy"]).shape == SPEC.mel_shape
    assert result.sums.by_status == {"written": 2} and result.size > 0
    assert [row.key for row in rows_of(tmp_path)] == list(stored)


def test_every_planned_clip_has_a_row_with_a_true_reason(media, tmp_path):
    media["a"] = [raw(0), FailedClip(6400, CORRUPT), raw(12800)]
    media["b"] = [raw(0), MediaError(Reason.TIMEOUT, "too slow")]
    short = MediaError(Reason.TOO_SHORT, "0.1 s of video")
    sources = (
        PlannedSource(path="a", starts=(0, 6400, 12800)),
        PlannedSource(path="b", starts=(0, 6400, 12800)),
        PlannedSource(path="c", starts=(0,), verdict=short),  # known from the plan: it is not opened
    )
    make_shard(task(tmp_path, *sources))
    found = sorted((row.source, row.start_s, row.status, row.reason) for row in rows_of(tmp_path))
    assert found == [
        ("a", 0.0, "written", ""),
        ("a", 0.4, "failed", "corrupt"),
        ("a", 0.8, "written", ""),
        ("b", 0.0, "written", ""),
        ("b", 0.4, "failed", "timeout"),
        ("b", 0.8, "failed", "timeout"),
        ("c", 0.0, "filtered", "too_short"),
    ]


@pytest.mark.parametrize(
    ("limit", "kept", "dropped", "reason"),
    [
        ({"drop_silent_db": -30.0}, {"gain": 0.1}, {"gain": 0.01}, "silent"),  # RMS -23 and -43 dB
        ({"drop_black": 50.0}, {"level": 60}, {"level": 40}, "black"),
        ({"drop_static": 5.0}, {"moves": 10}, {"moves": 4}, "static"),
        ({"max_residual_ms": 50.0}, {"residual_ms": -50.0}, {"residual_ms": -50.1}, "residual"),
    ],
)
def test_a_filter_leaves_out_what_is_beyond_its_limit(limit, kept, dropped, reason, media, tmp_path):
    media["a"] = [raw(0, **kept), raw(6400, **dropped)]
    source = PlannedSource(path="a", starts=(0, 6400))
    make_shard(task(tmp_path, source, **limit))
    first, second = rows_of(tmp_path)
    assert (first.status, second.status, second.reason) == ("written", "filtered", reason)
    without = made_clips(task(tmp_path, source))
    assert [type(clip).__name__ for clip in without] == ["MadeClip", "MadeClip"]


def test_a_trial_writes_nothing_and_decodes_everything(media, tmp_path):
    seen = []

    @contextmanager
    def guard():
        seen.append(1)
        yield

    media["a"] = [raw(0), raw(6400)]
    whole = task(tmp_path, PlannedSource(path="a", starts=(0, 6400)))
    result = make_shard(whole.trial(whole.sources), guard=guard)
    assert result.size == 0 and not list((tmp_path / "out").iterdir())
    assert len(seen) == 3  # each clip, and the end


def test_only_failed_tries_the_sources_with_failures_and_keeps_the_rest(media, tmp_path):
    media |= {"a": [raw(0)], "b": [raw(0), FailedClip(6400, CORRUPT)]}
    shard = task(tmp_path, PlannedSource(path="a", starts=(0,)), PlannedSource(path="b", starts=(0, 6400)))
    make_shard(shard)
    before = clips_of(tmp_path)
    del media["a"]  # it is not opened again
    media["b"] = [FailedClip(0, CORRUPT), raw(6400, level=30)]  # what stands is not given up
    result = make_shard(replace(shard, remake="failed"))
    now = clips_of(tmp_path)
    assert now.items() >= before.items() and now.keys() - before.keys() == {clip_key("b", 6400)}
    assert result.sums.by_status == {"written": 3} and {row.status for row in rows_of(tmp_path)} == {
        "written"
    }
    whole = {"a": [raw(0)], "b": [raw(0), raw(6400, level=30)]}
    media |= whole
    (tmp_path / "again").mkdir()
    make_shard(task(tmp_path / "again", *shard.sources))
    assert clips_of(tmp_path / "again") == now


def test_a_source_that_is_quarantined_is_not_opened(media, tmp_path):
    crashed = MediaError(Reason.CRASHED, "killed by SIGSEGV")
    shard = task(tmp_path, PlannedSource(path="a", starts=(0,))).without({"a": crashed})
    make_shard(shard)  # `media` has no such file: to open it would raise
    (row,) = rows_of(tmp_path)
    assert (row.status, row.reason, row.detail) == ("failed", "crashed", "killed by SIGSEGV")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"drop_black": 256}, "drop_black must be from 0 to 255, not 256"),
        ({"drop_static": float("nan")}, "drop_static must be from 0 to 255, not nan"),
        ({"drop_silent_db": 60.0}, "drop_silent_db must be at most 0 dB of full scale, not 60.0"),
        ({"drop_silent_db": float("nan")}, "drop_silent_db must be at most 0 dB of full scale, not nan"),
        ({"max_residual_ms": -1}, "max_residual_ms must be from 0 to inf, not -1"),
        ({"crop": "centre"}, "crop must be one of center, pad, stretch, auto, not 'centre'"),
    ],
)
def test_options_that_cannot_be_are_named(given, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        ClipOptions(**given)
