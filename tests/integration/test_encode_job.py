"""The encode job: resume, refusal, lost workers, the fused path. A hang would be the bug: time limits."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from avprep.cli import main
from avprep.errors import ArgumentError
from avprep.execution import RunnerError
from avprep.jobs.output import JobError
from avprep.shards.clips import load_npy
from avprep.shards.latents import EncoderHeader, unpack
from avprep.shards.layout import read_header
from avprep.shards.ledger import ShardRecord, read_ledger, read_ledgers, write_ledger
from avprep.shards.store import open_store
from avprep.shards.tar import read_shard
from avprep.shards.verify import verify
from avprep.shards.writer import ShardWriter
from avprep.spec import ClipSpec
from tests.fake_encoder import OpenFake
from tests.integration.encode_driver import SHARD_SIZE, encode, media_source
from tests.made_clips import TINY, write_clips

FAKE = OpenFake(TINY)
REAL = OpenFake(ClipSpec(size=32))
pytestmark = pytest.mark.timeout(120)


def digest(out: Path) -> dict[str, str]:
    """Every file that a run leaves, save its lock and, in stats.json, its timings."""
    files = {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in ("stats.json", ".lock")
    }
    stats = json.loads((out / "stats.json").read_text())
    return files | {"stats": json.dumps({name: v for name, v in stats.items() if name != "last_run"})}


def rows_of(out: Path):
    return [row for _, rows, _ in read_ledgers(open_store(out)) for row in rows]


def tars(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "shards").iterdir()}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """12 clips in shards of 5, 5, 2."""
    return write_clips(tmp_path_factory.mktemp("made") / "clips")


@pytest.fixture(scope="module")
def finished(clips, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    encode(clips, out, fake=FAKE)
    return out


@pytest.fixture(scope="module")
def real_clips(clip_root, tmp_path_factory) -> Path:
    """Clips of real files, two of which give none."""
    out = tmp_path_factory.mktemp("real") / "clips"
    command = ["clip", "--dataset", "folder", "--root", clip_root, "--out", out, "--workers", 0, "--size", 32]
    command += ["--shard-size", SHARD_SIZE, "--video-codec", "raw", "--label-from-folder"]
    result = CliRunner().invoke(main, [str(part) for part in command])
    assert result.exit_code == 0, result.output
    return out


def drive(*args: object) -> list[str]:
    return [sys.executable, "-m", "tests.integration.encode_driver", *map(str, args)]


# --- what is made ------------------------------------------------------------------------------------------


def test_every_clip_has_a_row_and_what_was_lost_keeps_its_reason(real_clips, tmp_path):
    report = encode(real_clips, tmp_path / "out", fake=REAL)
    theirs, ours = rows_of(real_clips), rows_of(tmp_path / "out")
    assert ours == theirs and report.sums.by_status == {"written": 10, "failed": 2}
    assert list(verify(open_store(tmp_path / "out"))) == []
    for tar in sorted((tmp_path / "out" / "shards").iterdir()):
        clips_tar = real_clips / "shards" / tar.name.replace("latents", "clips")
        with open(tar, "rb") as a, open(clips_tar, "rb") as b:
            assert [key for key, _ in read_shard(a)] == [key for key, _ in read_shard(b)]


def test_stats_are_those_of_the_stored_latents(finished):
    stats = json.loads((finished / "stats.json").read_text())
    header = EncoderHeader.from_dict(read_header(open_store(finished)))
    stored = []
    for path in sorted((finished / "shards").iterdir()):
        with open(path, "rb") as file:
            stored += [unpack(load_npy(members["latent.npy"]), header) for _, members in read_shard(file)]
    stack = np.stack(stored).astype(np.float64)
    assert stats["latents"]["count"] == len(stored) == 12
    for p, valid in enumerate(header.valid_rows):
        real = stack[:, :, p, :valid]
        np.testing.assert_allclose(stats["latents"]["mean"][p], real.mean((0, 2, 3)), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(stats["latents"]["std"][p], real.std((0, 2, 3)), rtol=1e-9, atol=1e-12)
    assert stats["labels"] == {"0": 3, "1": 3, "2": 3, "3": 3}
    assert stats["clips"] == {"written": 12, "filtered": 0, "failed": 0}
    assert 0 < stats["last_run"]["busy"] <= 1


def test_twice_gives_the_same_bytes_and_a_third_does_nothing(clips, finished, tmp_path):
    encode(clips, tmp_path / "out", fake=FAKE)
    assert digest(tmp_path / "out") == digest(finished)
    assert encode(clips, tmp_path / "out", fake=FAKE).made == 0


def test_packed_and_posterior_are_the_same_values(clips, finished, tmp_path):
    encode(clips, tmp_path / "out", fake=FAKE, packed=True, posterior=True)
    assert list(verify(open_store(tmp_path / "out"))) == []
    header = read_header(open_store(tmp_path / "out"))
    assert [place["plane"] for place in header["packed"]] == list(FAKE.header.planes)
    for path in (finished / "shards").iterdir():
        with open(path, "rb") as a, open(tmp_path / "out" / "shards" / path.name, "rb") as b:
            for (_, plain), (_, packed) in zip(read_shard(a), read_shard(b), strict=True):
                values = load_npy(packed["latent.npy"])
                assert values.shape == (FAKE.header.values,)
                assert np.array_equal(unpack(values, FAKE.header), load_npy(plain["latent.npy"]))
                assert load_npy(packed["logvar.npy"]).shape == values.shape


def test_out_of_memory_halves_goes_on_and_is_in_the_stats(clips, finished, tmp_path):
    said: list[str] = []
    encode(clips, tmp_path / "out", fake=FAKE.but(fits=1), said=said)
    assert digest(tmp_path / "out") == digest(finished)
    assert said == ["out of memory with 2 clips a batch; goes on with 1"]
    assert json.loads((tmp_path / "out" / "stats.json").read_text())["last_run"]["notes"] == said


def test_a_found_batch_size_is_kept_for_the_next_run(clips, tmp_path, monkeypatch):
    monkeypatch.setattr("avprep.stages.encoder._GROWTH", 0)
    said: list[str] = []
    encode(clips, tmp_path / "out", fake=FAKE.but(fits=4), batch_size=None, said=said)
    assert said == ["batch_size = 4: found by trying on cpu"]
    (tmp_path / "out" / "ledger" / "000001.parquet").unlink()
    report = encode(clips, tmp_path / "out", fake=FAKE, batch_size=None)
    assert (report.made, report.batch_size) == (1, 4)


# --- resume, repair and refusal ----------------------------------------------------------------------------


def test_what_is_missing_is_made_again_and_the_stats_are_exact(clips, finished, tmp_path):
    out = tmp_path / "out"
    encode(clips, out, fake=FAKE)
    (out / "ledger" / "000001.parquet").unlink()
    (out / "stats.json").unlink()
    assert encode(clips, out, fake=FAKE).made == 1
    assert digest(out) == digest(finished)


def test_a_finished_run_without_its_stats_gets_them_from_the_same_call(clips, finished, tmp_path):
    out = tmp_path / "out"
    encode(clips, out, fake=FAKE)
    for damage in (lambda path: path.unlink(), lambda path: path.write_text('{"labels": {"0": 12}}')):
        damage(out / "stats.json")
        assert encode(clips, out, fake=FAKE).made == 0
        assert digest(out) == digest(finished)


def test_a_damaged_clip_shard_is_left_out_and_made_once_it_is_whole(tmp_path):
    clips, out = write_clips(tmp_path / "clips"), tmp_path / "out"
    shard = clips / "shards" / "clips-000001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:700] + b"x" + whole[701:])
    report = encode(clips, out, fake=FAKE)
    assert report.made == 2 and len(report.damaged) == 1 and "clips-000001.tar" in report.damaged[0]
    shard.write_bytes(whole)
    report = encode(clips, out, fake=FAKE)
    assert report.made == 1 and not report.damaged
    assert report.latents.clips == 12


def test_a_clip_shard_that_was_made_again_is_encoded_again(tmp_path):
    clips, out = write_clips(tmp_path / "clips"), tmp_path / "out"
    encode(clips, out, fake=FAKE)
    store = open_store(clips)
    rows, record = read_ledger(store, 0)
    with store.open(record.name) as file:
        old = list(read_shard(file))
    with store.write(record.name) as file:  # as a run with only_failed does: the same plan, other clips
        writer = ShardWriter(file)
        for (key, _), (_, members) in zip(old, reversed(old), strict=True):
            writer.add(key, members)
        sha256 = writer.close()
    write_ledger(store, 0, rows, ShardRecord(record.name, sha256, writer.size, record.fingerprint))
    report = encode(clips, out, fake=FAKE)
    assert report.made == 1 and report.latents.clips == 12
    encode(clips, tmp_path / "anew", fake=FAKE)
    assert digest(out) == digest(tmp_path / "anew")


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("weights = 'fake'", {"fake": OpenFake(TINY, weights="other")}),
        ("options.packed = False", {"fake": FAKE, "packed": True}),
        ("options.posterior = False", {"fake": FAKE, "posterior": True}),
    ],
)
def test_a_changed_checkpoint_or_option_is_refused_with_the_field_named(clips, finished, field, changed):
    before = digest(finished)
    with pytest.raises(JobError, match=f"{field}.*rebuild=True"):
        encode(clips, finished, **changed)
    assert digest(finished) == before


def test_another_device_is_refused(clips, tmp_path):
    out = tmp_path / "out"
    encode(clips, out, fake=FAKE)
    header = read_header(open_store(out))
    assert header["device"] == "cpu"
    (out / "ledger" / "000001.parquet").unlink()
    for interrupted, way_out in (({}, "rebuild=True starts over"), ({"rebuilding": True}, "over remove")):
        (out / "spec.json").write_text(json.dumps(header | {"device": "cuda"} | interrupted))
        with pytest.raises(JobError, match=f"begun with device = 'cuda'; this run has 'cpu'.*{way_out}"):
            encode(clips, out, fake=FAKE, rebuild=bool(interrupted))


def test_other_clips_are_refused_and_rebuild_starts_over(clips, finished, tmp_path):
    out = tmp_path / "out"
    encode(clips, out, fake=FAKE)
    others = write_clips(tmp_path / "others", seed=1)
    with pytest.raises(JobError, match="clips.fingerprint"):
        encode(others, out, fake=FAKE)
    encode(others, out, fake=FAKE, rebuild=True)
    encode(others, tmp_path / "plain", fake=FAKE)
    assert digest(out) == digest(tmp_path / "plain") != digest(finished)


def test_the_clips_are_never_taken_for_the_output(tmp_path):
    clips = write_clips(tmp_path / "clips")
    before = {path: path.read_bytes() for path in clips.rglob("*.*")}
    with pytest.raises(JobError, match="holds clips, not latents"):
        encode(clips, clips, fake=FAKE, rebuild=True)
    assert {path: path.read_bytes() for path in clips.rglob("*.*") if path.name != ".lock"} == before


def test_clips_that_are_not_finished_are_a_sentence(tmp_path):
    clips = write_clips(tmp_path / "clips")
    (clips / "ledger" / "000002.parquet").unlink()
    with pytest.raises(ArgumentError, match="1 of its 3 shards are not made yet"):
        encode(clips, tmp_path / "out", fake=FAKE)


def test_clips_of_another_spec_are_a_sentence(clips, tmp_path):
    with pytest.raises(ArgumentError, match="have frames = 4, not 16; size = 16, not 32"):
        encode(clips, tmp_path / "out", fake=REAL)
    assert not (tmp_path / "out").exists()


def test_latents_are_no_clips(finished, tmp_path):
    with pytest.raises(ArgumentError, match="^clips = .*: it holds latents, not clips"):
        encode(finished, tmp_path / "out", fake=FAKE)


def test_an_error_of_the_encoder_ends_the_run_as_itself(clips, tmp_path):
    with pytest.raises(ValueError, match="the model is wrong"):
        encode(clips, tmp_path / "out", fake=FAKE.but(error="the model is wrong"))
    assert list((tmp_path / "out").rglob("*.tmp")) == []


@pytest.mark.parametrize(
    ("kind", "words"),
    [("value", "sums"), ("padding", "padding that is not zero"), ("nan", "NaN"), ("sums", "sums")],
)
def test_verify_names_damage_to_latents(kind, words, real_clips, tmp_path):
    """Each damage with a ledger whose checksum agrees, so that the looking at the values finds it."""
    out = tmp_path / "out"
    encode(real_clips, out, fake=REAL)
    store = open_store(out)
    rows, record = read_ledger(store, 1)
    with store.open(record.name) as file:
        clips = dict(read_shard(file))
    first = next(iter(clips.values()))
    latent = load_npy(first["latent.npy"])
    place = (0, 0, REAL.header.valid_rows[0] if kind == "padding" else 0, 0)
    changed = {"value": 0.5, "padding": 1e-3, "nan": np.nan, "sums": latent[place]}[kind]
    latent[place] = changed
    stored = io.BytesIO()
    np.save(stored, latent)
    first["latent.npy"] = stored.getvalue()
    with store.write(record.name) as file:
        writer = ShardWriter(file)
        for key, members in clips.items():
            writer.add(key, members)
        sha256 = writer.close()
    extra = read_ledger(store, 0)[1].extra if kind == "sums" else record.extra
    changed_record = ShardRecord(record.name, sha256, writer.size, record.fingerprint, extra)
    write_ledger(store, 1, rows, changed_record)
    found = [str(damage) for damage in verify(store)]
    assert found and all("latents-000001.tar" in damage for damage in found)
    assert words in " ".join(found)


# --- workers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_workers_give_the_same_bytes_and_stats(workers, clips, finished, tmp_path):
    out = tmp_path / "out"
    encode(clips, out, fake=FAKE, workers=workers)
    assert digest(out) == digest(finished)


@pytest.mark.slow
def test_an_actor_that_is_killed_is_replaced_and_nothing_is_lost(clips, finished, tmp_path):
    said: list[str] = []
    fake = FAKE.but(kill_at=str(tmp_path / "killed"))
    encode(clips, tmp_path / "out", fake=fake, workers=2, said=said)
    assert digest(tmp_path / "out") == digest(finished)
    assert said and all("Actor" in line for line in said)


@pytest.mark.slow
def test_a_worker_lost_again_and_again_is_a_sentence(clips, tmp_path):
    with pytest.raises(RunnerError, match="has lost its worker 3 times"):
        encode(clips, tmp_path / "out", fake=FAKE.but(kill_always=True), workers=1)


def test_an_error_in_a_worker_ends_the_run_as_itself(clips, tmp_path):
    with pytest.raises(ValueError, match="the model is wrong"):
        encode(clips, tmp_path / "out", fake=FAKE.but(error="the model is wrong"), workers=1)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_driver_killed_in_mid_run_is_gone_on_with(workers, clips, finished, tmp_path):
    out = tmp_path / "out"
    running = subprocess.Popen(drive("clips", clips, out, "--workers", workers, "--slow", 0.2))
    while not list(out.glob("ledger/*.parquet")) and running.poll() is None:
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    left = len(list(out.glob("ledger/*.parquet")))
    assert encode(clips, out, fake=FAKE).made == 3 - left > 0
    # Ray's workers outlive their driver for seconds: one may begin a file after this run has swept, which the
    # next run does. Nothing else may be there.
    until = time.monotonic() + 30
    while workers and list(out.rglob(".*.tmp")) and time.monotonic() < until:
        time.sleep(0.5)
        assert encode(clips, out, fake=FAKE).made == 0
    assert digest(out) == digest(finished)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_node_killed_in_the_middle_costs_no_latent(tmp_path):
    ray = pytest.importorskip("ray.cluster_utils")
    clips = write_clips(tmp_path / "clips", sources=10, shard_size=1)
    encode(clips, tmp_path / "undisturbed", fake=FAKE)
    out = tmp_path / "out"
    cluster = ray.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        command = drive("clips", clips, out, "--workers", 2, "--address", cluster.address, "--slow", 0.5)
        running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        while len(list(out.glob("ledger/*.parquet"))) < 6 and running.poll() is None:
            time.sleep(0.02)
        cluster.remove_node(second, allow_graceful=False)
        assert running.poll() is None, "the node went too late to matter"
        said, _ = running.communicate(timeout=180)
    finally:
        cluster.shutdown()
    assert running.returncode == 0 and "Actor" in said, said  # a worker was lost, and told
    assert digest(out) == digest(tmp_path / "undisturbed")


def test_a_signal_finishes_what_is_in_hand(clips, finished, tmp_path):
    out = tmp_path / "out"
    running = subprocess.Popen(drive("clips", clips, out, "--slow", 0.2), stderr=subprocess.PIPE, text=True)
    while not list(out.glob("shards/.*.tmp")) and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=240)
    assert "Stopped" in said  # the job's exception: the command says it in words
    assert list(verify(open_store(out))) == []
    encode(clips, out, fake=FAKE)
    assert digest(out) == digest(finished)


# --- no clips on disk --------------------------------------------------------------------------------------


def fused(root: Path, out: Path, **kwargs):
    source = media_source(root, REAL.spec, workers=kwargs.get("workers", 0))
    return encode(source, out, fake=kwargs.pop("fake", REAL), **kwargs)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_fused_path_gives_the_bytes_of_two_steps(workers, clip_root, real_clips, tmp_path):
    encode(real_clips, tmp_path / "two", fake=REAL)
    report = fused(clip_root, tmp_path / "fused", workers=workers)
    assert tars(tmp_path / "fused") == tars(tmp_path / "two")
    assert rows_of(tmp_path / "fused") == rows_of(tmp_path / "two")
    assert report.sums.by_status == {"written": 10, "failed": 2}
    one, two = (json.loads((tmp_path / n / "stats.json").read_text())["latents"] for n in ("fused", "two"))
    assert one == two
    assert list(verify(open_store(tmp_path / "fused"))) == []


@pytest.mark.slow
@pytest.mark.parametrize("cpus", [1, 2])
def test_the_fused_path_does_not_hang_on_a_small_machine(cpus, clip_root, tmp_path):
    """Two actors and the decoders on one CPU, and an actor that is killed in mid-run."""
    command = drive(
        "media", clip_root, tmp_path / "out", "--workers", 2, "--cpus", cpus, "--kill-at", tmp_path / "killed"
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    fused(clip_root, tmp_path / "undisturbed")
    assert digest(tmp_path / "out") == digest(tmp_path / "undisturbed")


def test_a_changed_crop_is_refused_by_the_fused_path(clip_root, tmp_path):
    out = tmp_path / "out"
    fused(clip_root, out)
    source = media_source(clip_root, REAL.spec, workers=0)
    source = dataclasses.replace(source, clip=dataclasses.replace(source.clip, crop="pad"))
    with pytest.raises(JobError, match="clips.options.crop = 'center'"):
        encode(source, out, fake=REAL)
