"""Hostile media through the whole of `avprep clip`: no hang, no death, every clip accounted for."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.resampler import AudioResampler

from avprep.cli.common import NO_CLIPS
from avprep.media.limits import MAX_GROWTH, bounded
from avprep.media.sound import _to_mono
from avprep.reasons import MediaError, Reason
from avprep.shards.ledger import LedgerRow, read_ledgers
from avprep.shards.plan import PlanReader
from avprep.shards.store import open_store
from avprep.shards.verify import verify
from tests.avprep.media.mutate import BILLION, boxes, mutations
from tests.conftest import shared_file
from tests.integration.test_faults import finish, start

# The least of each container, so that thirty mutants cost seconds.
SOURCES = (
    "sync_counter_5s.mp4",
    "fragmented.mp4",
    "dogball.3gp",
    "mkv_vorbis.mkv",
    "vp9_opus_bear.webm",
    "flv_sample.flv",
)
A_SOURCE = 5
TIMEOUT_S = 10


def mutants(name: str, count: int) -> list[tuple[str, bytes]]:
    data = shared_file("media", name).read_bytes()
    return list(islice(mutations(data, random.Random(name)), count))


def rows_of(out: Path) -> list[LedgerRow]:
    """The ledger's rows, once it is sure that they are the plan's."""
    store = open_store(out)
    rows = [row for _, rows, _ in read_ledgers(store) for row in rows]
    assert len(rows) == len({row.key for row in rows}) == PlanReader(store).clips
    return rows


def clip_alone(data: bytes, name: str, folder: Path) -> tuple[list[LedgerRow], int]:
    """A run over this one file in a process of its own: (rows, bytes that the process grew at most)."""
    (folder / "media").mkdir(parents=True)
    (folder / "media" / name).write_bytes(data)
    run = start(folder / "media", folder / "out", "--source-timeout", TIMEOUT_S)
    code, said = finish(run)
    rows = rows_of(folder / "out")
    expected = 0 if any(row.status == "written" for row in rows) else NO_CLIPS
    assert code == expected, f"{name} ended the run: {said}"
    return rows, int(run.log.with_suffix(".growth").read_text())


def test_the_same_seed_gives_the_same_mutants():
    first, again = mutants(SOURCES[0], 40), mutants(SOURCES[0], 40)
    assert first == again
    data = shared_file("media", SOURCES[0]).read_bytes()
    assert all(mutant != data or "0 bytes" in name for name, mutant in first)
    assert len({name for name, _ in first}) > 30


def test_boxes_of_a_real_file_tile_their_parents():
    data = shared_file("media", SOURCES[0]).read_bytes()
    outer = [box for box in boxes(data) if box.depth == 0]
    assert [box.start for box in outer] == [0, *(box.stop for box in outer[:-1])]
    assert outer[-1].stop == len(data)
    assert {b"moov", b"stts", b"stsz", b"mdhd"} <= {box.kind for box in boxes(data)}


@pytest.mark.timeout(120)
def test_thirty_mutants_in_one_run(tmp_path):
    root = tmp_path / "media"
    root.mkdir()
    for name in SOURCES:
        for i, (_, data) in enumerate(mutants(name, A_SOURCE)):
            (root / f"{i}_{name}").write_bytes(data)
    code, said = finish(start(root, tmp_path / "out", "--source-timeout", TIMEOUT_S))
    assert code == 0, said
    rows = rows_of(tmp_path / "out")
    assert {row.source for row in rows} == {path.name for path in root.iterdir()}
    assert {row.status for row in rows} >= {"written", "failed"}
    assert list(verify(open_store(tmp_path / "out"))) == []


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_billion_frames_take_no_more_memory_than_a_source_may(tmp_path):
    name = "sync_counter_5s.mp4"
    found = [m for m in mutants(name, 60) if m[0].startswith("10^9 frames")]
    assert found and all(BILLION.to_bytes(4, "big") in data for _, data in found)
    for i, (_, data) in enumerate(found):
        rows, growth = clip_alone(data, name, tmp_path / str(i))
        assert {row.status for row in rows} == {"failed"}
        assert growth < MAX_GROWTH


LARGE = 1 << 27  # bytes: beyond what malloc keeps for itself (32 MiB), so always from the system


def test_what_wants_more_memory_than_it_may_is_a_failed_source():
    def greedy():
        yield 1
        yield np.ones(LARGE, np.uint8).sum()

    clips = bounded(greedy(), growth=1 << 20)
    assert next(clips) == 1
    assert np.ones(LARGE, np.uint8).all()  # between two clips the process is free
    with pytest.raises(MediaError, match="more than 1 MiB") as raised:
        next(clips)
    assert raised.value.reason is Reason.CORRUPT
    assert np.ones(LARGE, np.uint8).all()


def test_what_was_handed_out_is_the_callers_memory():
    """The clips of a long film, all kept: each takes less than a source may, together they take more."""
    made = (np.ones(LARGE, np.uint8) for _ in range(6))
    kept = list(bounded(made, growth=3 * LARGE, size_of=lambda clip: clip.nbytes))
    assert len(kept) == 6
    with pytest.raises(MediaError):
        list(bounded((np.ones(LARGE, np.uint8) for _ in range(6)), growth=3 * LARGE))
    del kept


@pytest.mark.timeout(60)
def test_a_damaged_packet_that_claims_22_channels_does_not_end_the_process(tmp_path):
    """It did: PyAV found 26 planes in the frame and the last four pointed nowhere."""
    data = bytearray(shared_file("media", "office_v2.mp4").read_bytes())
    data[6516:6516] = data[6516 : 6516 + 11982]
    rows, _ = clip_alone(bytes(data), "office_v2.mp4", tmp_path)
    assert rows


@pytest.mark.parametrize(("layout", "count"), [("7.1", 8), ("7.1.4", 12)])
def test_planar_sound_of_many_channels_is_mixed_like_interleaved(layout, count):
    samples = np.random.default_rng(0).standard_normal((count, 1000)).astype(np.float32)
    packed = av.AudioFrame.from_ndarray(samples.T.reshape(1, -1).copy(), format="flt", layout=layout)
    packed.sample_rate = 48000
    planar = AudioResampler(format="fltp", layout=layout, rate=48000).resample(packed)[0]
    assert planar.format.is_planar
    np.testing.assert_array_equal(_to_mono(planar)[0], _to_mono(packed)[0])
