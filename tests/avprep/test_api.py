"""The public API: what it costs to import, what it exports, docs/api.md's examples, each call's promises."""

from __future__ import annotations

import ast
import configparser
import contextlib
import importlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import avprep
from avprep.api import clips as clips_module
from avprep.errors import ArgumentError, AvprepError
from avprep.jobs.clip import output_header
from avprep.jobs.config import ClipJobConfig, FromMedia, PlanOptions
from avprep.jobs.output import JobError, Stopped
from avprep.media.mux import write_mp4
from avprep.reasons import MediaError, Reason
from avprep.scenes.synth import write_scenes
from avprep.shards.clips import load_npy, load_waveform
from avprep.shards.store import open_store
from avprep.shards.tar import read_shard
from avprep.shards.verify import verify
from avprep.signals import stop_on_signal

TOP = Path(__file__).parents[2]
SPEC = avprep.ClipSpec(size=32, n_mels=64)
HEAVY = ("torch", "av", "ray", "pyarrow", "numpy", "click", "webdataset")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("api") / "scenes"
    write_scenes(folder, n=3, seed=0, seconds=4, size=64)
    return folder


@pytest.fixture(scope="module")
def ball(scenes) -> Path:
    return scenes / "ball" / "ball_0000.mp4"


def python(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=True, **options
    )


# --- the package -------------------------------------------------------------------------------------------


def test_importing_costs_little_and_loads_nothing_heavy():
    code = (
        "import sys, time; began = time.perf_counter(); import avprep; avprep.ClipSpec, avprep.AvprepError; "
        f"took = time.perf_counter() - began; print(took, [m for m in {HEAVY} if m in sys.modules])"
    )
    best = min((python(code).stdout.split(" ", 1) for _ in range(3)), key=lambda told: float(told[0]))
    assert float(best[0]) < 0.3
    assert best[1].strip() == "[]"


def test_every_exported_name_is_there_typed_and_documented():
    table = {**avprep._MODULES, "__version__": "avprep"}
    assert sorted(avprep.__all__) == sorted(table) == sorted(set(avprep.__all__))
    assert set(avprep.__all__) <= set(dir(avprep))
    text = (TOP / "docs" / "api.md").read_text()
    tree = ast.parse((TOP / "avprep" / "__init__.py").read_text())
    guarded = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        for alias in node.names
    }
    assert guarded == avprep._MODULES
    for name in avprep._MODULES:
        found = getattr(avprep, name)
        assert found.__doc__, name
        assert re.search(rf"\b{name}\b", text), name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'avprep' has no attribute 'selekt'"):
        _ = avprep.selekt


def test_the_version_is_written_once():
    config = configparser.ConfigParser()
    config.read(TOP / "setup.cfg")
    assert config["metadata"]["version"] == "attr: avprep.__version__"
    assert importlib.metadata.version("avprep") == avprep.__version__
    assert config["metadata"]["license_files"] == "LICENSE" and (TOP / "LICENSE").is_file()
    for package in ("avprep", "avmodel"):
        assert (TOP / package / "py.typed").is_file()
        assert config["options.package_data"][package] == "py.typed"


# Internal: never seen by a caller; or of click, which shows them.
_INTERNAL = {"_TooMuch", "Doubt", "ChildDied", "_Closed", "Refused", "_Refused"}


def test_every_error_that_a_caller_may_catch_has_one_base():
    found = set()
    for path in sorted(p for name in ("avprep", "avmodel") for p in (TOP / name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name not in _INTERNAL:
                module = ".".join(path.relative_to(TOP).with_suffix("").parts).removesuffix(".__init__")
                bases = {ast.unparse(base) for base in node.bases}
                if any(re.search(r"(Error|Exception|Interrupt)$", base) for base in bases) or (
                    node.name.endswith("Error")
                ):
                    found.add(node.name)
                    error = getattr(importlib.import_module(module), node.name)
                    assert issubclass(error, AvprepError), f"{module}.{node.name}"
    assert {"SpecError", "MediaError", "ShardError", "JobError", "Stopped", "CheckpointError"} <= found


# --- docs/api.md -------------------------------------------------------------------------------------------


@pytest.mark.isolated
def test_the_documentation_prints_what_it_says(tmp_path, monkeypatch):
    text = (TOP / "docs" / "api.md").read_text()
    examples = re.findall(r"```python\n(.*?)```\n```text\n(.*?)```", text, flags=re.DOTALL)
    assert len(examples) == text.count("```python") >= 14
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "docs"}
    for code, expected in examples:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "docs/api.md", "exec"), names)
        assert printed.getvalue().replace(f"{tmp_path}/", "") == expected, code


# --- read_clips --------------------------------------------------------------------------------------------


def stored(out: Path) -> list[dict[str, object]]:
    """The clips of an output of raw frames, by source and start."""
    found = []
    for path in sorted((out / "shards").glob("*.tar")):
        with open(path, "rb") as file:
            for _, members in read_shard(file):
                found.append(
                    json.loads(members["json"])
                    | {
                        "frames": load_npy(members["frames.npy"]),
                        "mel": load_npy(members["mel.npy"]),
                        "waveform": load_waveform(members["audio.flac"], SPEC),
                    }
                )
    return sorted(found, key=lambda clip: (clip["source"], clip["start_s"]))


@pytest.mark.parametrize("crop", ["center", "pad", "auto"])
def test_clips_in_memory_are_those_that_the_job_stores(scenes, tmp_path, crop):
    media, out = tmp_path / "media", tmp_path / "out"
    shutil.copytree(scenes, media)
    wide = np.random.default_rng(0).integers(64, 256, (40, 32, 96, 3), np.uint8)
    write_mp4(media / "wide.mp4", wide, np.zeros(64000), fps=10, sample_rate=16000)
    avprep.clip_dataset(
        media, out, spec=SPEC, stride_s=0.7, clips_per_source=2, crop=crop, video_codec="raw", workers=0
    )
    expected = stored(out)
    assert [clip["start_s"] for clip in expected] == [0.0, 1.4] * 4
    bars = expected[-1]["frames"][:, :8]
    assert expected[-1]["source"] == "wide.mp4" and (bars.max() < 40) == (crop == "pad")
    for theirs in expected:
        ours = next(
            clip
            for clip in avprep.read_clips(
                media / theirs["source"], spec=SPEC, stride_s=0.7, clips=2, crop=crop
            )
            if clip.start_s == theirs["start_s"]
        )
        assert np.array_equal(ours.frames, theirs["frames"])
        assert ours.frame_times_s.tolist() == theirs["frame_times_s"]
        assert (ours.residual_ms, ours.sounding_s) == (theirs["residual_ms"], theirs["sounding_s"])
        assert np.abs(ours.waveform - theirs["waveform"]).max() <= 1 / 32768
        assert np.abs(ours.mel - theirs["mel"].astype(np.float32)).max() < 1e-3


def test_starts_are_read_where_they_are_said(ball):
    found = list(avprep.read_clips(ball, spec=SPEC, starts=[0.3, 0.30625, 2]))
    assert [clip.start_s for clip in found] == [0.3, 0.30625, 2.0]
    # 100 samples later: the same sound, so much further on.
    assert np.array_equal(found[0].waveform[100:], found[1].waveform[:-100])
    assert not np.array_equal(found[0].waveform, found[1].waveform)


def test_a_clip_that_fails_raises_or_is_told_and_the_rest_is_read(ball):
    with pytest.raises(MediaError, match="truncated"):
        list(avprep.read_clips(ball, spec=SPEC, starts=[1, 3]))
    failed = []
    found = list(avprep.read_clips(ball, spec=SPEC, starts=[1, 3, 50], on_failure=failed.append))
    assert [clip.start_s for clip in found] == [1.0]
    assert [(f.start_s, f.error.reason) for f in failed] == [(3.0, "truncated"), (50.0, "truncated")]


def test_a_file_that_is_too_short_is_not_passed_over_in_silence(ball):
    long = avprep.ClipSpec(size=32, frames=64)
    with pytest.raises(MediaError, match="too_short: 4.000 s of video, a clip is 6.4 s"):
        list(avprep.read_clips(ball, spec=long))
    failed = []
    assert list(avprep.read_clips(ball, spec=long, on_failure=failed.append)) == []
    assert [f.error.reason for f in failed] == [Reason.TOO_SHORT]


def test_a_file_that_cannot_be_opened_is_raised_whatever_is_done_about_clips(scenes):
    for name, reason in (("manifest.csv", "not_media"), ("nothing.mp4", "missing")):
        with pytest.raises(MediaError, match=reason):
            list(avprep.read_clips(scenes / name, starts=[0.0], on_failure=lambda failed: None))


def test_what_a_callback_raises_is_not_taken_for_the_files_fault(ball):
    def refuse(failed):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="^mine$"):
        list(avprep.read_clips(ball, spec=SPEC, starts=[3], on_failure=refuse))


def test_the_time_limit_leaves_out_what_the_caller_does(ball, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("avprep.media.limits.time.monotonic", lambda: now[0])
    monkeypatch.setattr(clips_module.time, "perf_counter", lambda: now[0])
    read = avprep.read_clips(ball, spec=SPEC, timeout_s=1)
    next(read)
    now[0] = 100.0
    assert len(list(read)) == 1
    read = avprep.read_clips(ball, spec=SPEC, timeout_s=1, stride_s=0.4)
    now[0] = 102.0
    with pytest.raises(MediaError, match="timeout"):
        next(read)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"starts": [0, 0]}, "starts must ascend: 0 comes after 0"),
        ({"starts": [-0.1]}, r"starts\[0\] = -0.1 s"),
        ({"starts": [float("nan")]}, r"starts\[0\] must be a number of seconds, not nan"),
        ({"starts": [0], "clips": 2}, "starts says which clips are read"),
        ({"starts": [0], "stride_s": 2}, "starts says which clips are read"),
        ({"stride_s": 0}, "stride_s = 0 s is sample 0"),
        ({"stride_s": "1"}, "stride_s must be a number"),
        ({"clips": 0}, "clips must be a whole number, at least 1, not 0"),
        ({"crop": "centre"}, "crop must be one of center, pad, stretch, auto, not 'centre'"),
        ({"timeout_s": 0}, "timeout_s must be a number above 0, not 0"),
        ({"spec": 16}, "spec must be a ClipSpec, not 16"),
    ],
)
def test_arguments_that_cannot_be_are_named_at_the_call(ball, told, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        avprep.read_clips(ball, **told)


# --- sound -------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    lead=st.lists(st.integers(0, 2), max_size=2).map(tuple),
    kind=st.sampled_from(["f2", "f4", "f8"]),
    seed=st.integers(0, 9),
    has_neighbours=st.booleans(),
)
def test_numpy_and_torch_give_the_same_stacks_with_any_leading_axes(lead, kind, seed, has_neighbours):
    beside = SPEC.samples_before + SPEC.samples_after if has_neighbours else 0
    waveform = np.random.default_rng(seed).normal(0, 0.1, (*lead, SPEC.samples + beside)).astype(kind)
    stack = avprep.mel_stack(waveform, SPEC)
    assert isinstance(stack, np.ndarray) and stack.dtype == np.float32
    assert stack.shape == (*lead, *SPEC.mel_shape)
    tensor = avprep.mel_stack(torch.from_numpy(waveform), SPEC)
    assert isinstance(tensor, torch.Tensor) and np.array_equal(tensor.numpy(), stack)


def test_silence_is_assumed_beside_a_clip_alone():
    waveform = np.random.default_rng(0).normal(0, 0.1, SPEC.samples).astype(np.float32)
    padded = np.pad(waveform, (SPEC.samples_before, SPEC.samples_after))
    assert np.array_equal(avprep.mel_stack(waveform, SPEC), avprep.mel_stack(padded, SPEC))
    loud = padded.copy()
    loud[: SPEC.samples_before] = 0.5
    assert not np.array_equal(avprep.mel_stack(waveform, SPEC)[0], avprep.mel_stack(loud, SPEC)[0])


def test_inverted_stacks_are_near_and_keep_their_axes():
    rng = np.random.default_rng(0)
    waveform = rng.normal(0, 0.1, (2, 1, SPEC.samples)).astype(np.float32)
    mel = avprep.mel_stack(waveform, SPEC)
    back = avprep.invert_mel(mel, SPEC)
    assert back.shape == waveform.shape and back.dtype == np.float32
    strided = torch.from_numpy(np.asfortranarray(mel))
    for same in (torch.from_numpy(mel), strided):
        assert np.array_equal(avprep.invert_mel(same, SPEC).numpy(), back)
    error = ((avprep.mel_stack(back, SPEC) - mel) ** 2).mean()
    assert 10 * np.log10(4 / error) > 30
    assert avprep.invert_mel(mel[:0], SPEC).shape == (0, 1, SPEC.samples)
    rows = np.zeros((0, *SPEC.mel_shape), np.float16)
    assert avprep.invert_mel(rows, SPEC).dtype == np.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: avprep.mel_stack(np.zeros(9, np.float32), SPEC), "waveform must end in 25600 samples"),
        (lambda: avprep.mel_stack(np.float32(0), SPEC), "waveform must be a NumPy array"),
        (lambda: avprep.mel_stack([0.0] * SPEC.samples, SPEC), "waveform must be a NumPy array"),
        (lambda: avprep.mel_stack(np.zeros(SPEC.samples, np.int16), SPEC), "waveform must be floating-point"),
        (lambda: avprep.mel_stack(np.full(SPEC.samples, np.nan), SPEC), "waveform holds NaN"),
        (lambda: avprep.invert_mel(np.zeros((16, 64), np.float32), SPEC), r"mel must end in \(16, 64, 16\)"),
        (lambda: avprep.invert_mel(np.full(SPEC.mel_shape, -40.0), SPEC), "mel must lie in .* -40"),
        (lambda: avprep.invert_mel(torch.zeros(SPEC.mel_shape), SPEC, iterations=-1), "iterations must be"),
        (lambda: avprep.invert_mel(torch.zeros(SPEC.mel_shape), SPEC, momentum=-1), "momentum must be"),
    ],
)
def test_sound_that_cannot_be_is_told_by_its_argument(call, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        call()


# --- the jobs ----------------------------------------------------------------------------------------------


def digest(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in ("stats.json", ".lock")
    }


def test_the_function_writes_what_the_command_writes(scenes, tmp_path):
    from click.testing import CliRunner

    from avprep.cli import main

    told = [
        "clip",
        "--dataset",
        "folder",
        "--root",
        str(scenes),
        "--out",
        str(tmp_path / "command"),
        "--size",
        "32",
        "--n-mels",
        "64",
        "--workers",
        "0",
        "--stride",
        "0.9",
    ]
    assert CliRunner().invoke(main, told).exit_code == 0
    report = avprep.clip_dataset(scenes, tmp_path / "function", spec=SPEC, stride_s=0.9, workers=0)
    assert digest(tmp_path / "function") == digest(tmp_path / "command")
    assert list(verify(open_store(tmp_path / "function"))) == []
    assert (report.planned, report.written, report.made) == (9, 9, 1)


def test_a_stride_that_is_left_out_has_the_fingerprint_of_one_that_is_given():
    headers = []
    for plan in (PlanOptions(), PlanOptions(stride_samples=25600)):
        source = FromMedia(dataset="folder", root=Path("."), sources=[], plan=plan)
        headers.append(output_header(ClipJobConfig(source=source, out="out")))
    assert headers[0] == headers[1]
    assert headers[0]["options"]["stride_samples"] == 25600


def test_sources_that_are_listed_have_one_spelling_and_their_own_labels(scenes, tmp_path):
    absolute = scenes / "ball" / "ball_0000.mp4"
    listed = [
        avprep.Source(path=str(absolute), start_s=1.0, stop_s=3.0, labels=["ball", "floor"]),
        Path("./rain/../rain/rain_0001.mp4"),
    ]
    report = avprep.clip_dataset(listed, tmp_path / "out", root=scenes, spec=SPEC, workers=0)
    rows = avprep.read_ledger(tmp_path / "out").to_pylist()
    assert sorted((row["source"], row["start_s"]) for row in rows) == [
        ("ball/ball_0000.mp4", 1.0),
        ("rain/rain_0001.mp4", 0.0),
        ("rain/rain_0001.mp4", 1.6),
    ]
    assert report.written == 3
    data = avprep.ClipDataset(tmp_path / "out", fields=["json"])
    assert {(tuple(item["json"]["labels"]), item["json"]["caption"]) for item in data} == {
        (("ball", "floor"), "a video of ball, floor"),
        ((), ""),
    }


@pytest.mark.parametrize(
    ("sources", "told", "message"),
    [
        ("ball.mp4", {}, "sources = 'ball.mp4': no such folder; for single files give a list"),
        (["a.mp4"], {}, "root needs a value for a list of sources"),
        (["../a.mp4"], {"root": "."}, r"sources\[0\] = '../a.mp4': it does not lie under root"),
        (["/etc/passwd"], {"root": "."}, r"sources\[0\] = '/etc/passwd': it does not lie under root"),
        (["a.mp4", "./a.mp4"], {"root": "."}, r"sources\[1\] = './a.mp4': it is given twice"),
        ([avprep.Source(path="a", start_s=2.0, stop_s=1.0)], {"root": "."}, r".*\[2.0, 1.0\) is no span"),
        ([avprep.Source(path="a", start_s=float("nan"))], {"root": "."}, ".*is no span"),
        ([avprep.Source(path="a", labels="rain")], {"root": "."}, ".*labels must be a tuple of strings"),
        ([avprep.Source(path="a.mp4", caption="x" * 10**7)], {"root": "."}, ".* characters each"),
        (
            [avprep.Source(path="a.mp4", labels=("x" * 10**5,) * 2)],
            {"root": "."},
            ".* characters each",
        ),
        ([], {"root": "."}, "sources must name a file"),
        (["a"], {"root": "nowhere"}, "root = 'nowhere': no such folder"),
        (["a"], {"root": ".", "split": "train"}, "dataset, split, list_file, .* go with a folder"),
        (".", {"root": "."}, "root = '.': it goes with a list"),
        (".", {"dataset": "imagenet"}, "dataset must be one of aist, audioset"),
        (".", {"shard_size": 0}, "shard_size must be a whole number, at least 1, not 0"),
        (".", {"shard_size": None}, "shard_size must be a whole number, at least 1, not None"),
        (".", {"limit": 2.5}, "limit must be a whole number"),
        (".", {"drop_black": 256}, "drop_black must be from 0 to 255, not 256"),
        (".", {"drop_silent_db": float("nan")}, "drop_silent_db must be"),
        (".", {"video_codec": "png"}, "video_codec must be one of raw, jpeg, h264, not 'png'"),
        (".", {"workers": -1}, "workers must be a whole number, at least 0, not -1"),
        (".", {"source_timeout_s": 0}, "source_timeout_s must be a number above 0"),
    ],
)
def test_what_a_job_cannot_do_is_told_by_the_argument(tmp_path, monkeypatch, sources, told, message):
    monkeypatch.chdir(tmp_path)
    Path("a.mp4").write_bytes(b"")
    out = tmp_path.parent / f"{tmp_path.name}-out"
    with pytest.raises(ArgumentError, match=f"^{message}"):
        avprep.clip_dataset(sources, out, **told)
    assert not out.exists()


@pytest.mark.parametrize("place", [".", "inside", ".."])
def test_an_output_among_the_media_is_refused(tmp_path, place):
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.mp4").write_bytes(b"")
    with pytest.raises(ArgumentError, match="^out = .*: it (is|lies in|holds) root=.*; give a folder"):
        avprep.clip_dataset(tmp_path / "media", tmp_path / "media" / place, workers=0, rebuild=True)
    assert (tmp_path / "media" / "a.mp4").exists()


def test_the_jobs_refusals_name_arguments_and_no_options(scenes, tmp_path):
    out = tmp_path / "out--rebuild"
    with pytest.raises(ArgumentError, match="^only_failed = True: .* holds no finished run"):
        avprep.clip_dataset(scenes, tmp_path / "new", spec=SPEC, workers=0, only_failed=True)
    avprep.clip_dataset(scenes, out, spec=SPEC, workers=0, limit=1)
    wrong = f"^out = {out}: it was begun with options.limit = 1; this run has 2.*, or rebuild=True to start"
    with pytest.raises(JobError, match=wrong):
        avprep.clip_dataset(scenes, out, spec=SPEC, workers=0, limit=2)


def test_media_that_are_gone_are_one_of_our_errors(scenes, tmp_path):
    media, out = tmp_path / "media", tmp_path / "out"
    shutil.copytree(scenes, media)
    listed = ["ball/ball_0000.mp4"]
    avprep.clip_dataset(listed, out, root=media, spec=SPEC, workers=0)
    shutil.rmtree(media)
    media.mkdir()
    with pytest.raises(JobError, match="^root = .*: it is empty"):
        avprep.clip_dataset(listed, out, root=media, spec=SPEC, workers=0, rebuild=True)


def test_progress_ends_at_the_sum_and_what_it_raises_ends_the_run(scenes, tmp_path):
    told, small = [], {"spec": SPEC, "shard_size": 2, "workers": 0}
    report = avprep.clip_dataset(scenes, tmp_path / "out", **small, progress=told.append)
    making = [now for now in told if now.shards]
    assert [(now.shards_done, now.clips_done) for now in making] == [(0, 0), (1, 2), (2, 4), (3, 6)]
    assert {(now.shards, now.clips) for now in making} == {(3, 6)}
    assert (told[-1].headers, report.made, report.shards) == (3, 3, 3)

    def stop(now):
        if now.shards_done:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        avprep.clip_dataset(scenes, tmp_path / "half", **small, progress=stop)
    assert avprep.clip_dataset(scenes, tmp_path / "half", **small).made == 2
    assert digest(tmp_path / "half") == digest(tmp_path / "out")


def test_a_signal_finishes_the_shard_in_hand_and_raises_one_of_our_errors(scenes, tmp_path):
    def interrupt(now):
        if now.shards_done == 1:
            signal.raise_signal(signal.SIGTERM)

    told = {"spec": SPEC, "shard_size": 2, "workers": 0}
    with pytest.raises(Stopped, match="^stopped by SIGTERM; the shards in hand are finished"):
        avprep.clip_dataset(scenes, tmp_path / "out", **told, progress=interrupt)
    assert issubclass(Stopped, AvprepError)
    assert avprep.read_ledger(tmp_path / "out").num_rows == 2
    assert avprep.clip_dataset(scenes, tmp_path / "out", **told).made == 2


def test_a_job_in_a_thread_leaves_signals_alone(scenes, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    seen, reports = [], []

    def run():
        reports.append(
            avprep.clip_dataset(
                scenes,
                tmp_path / "out",
                spec=SPEC,
                limit=1,
                workers=0,
                progress=lambda now: seen.append(signal.getsignal(signal.SIGTERM)),
            )
        )

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert reports and reports[0].written == 1
    assert set(seen) == {before}
    with stop_on_signal():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.isolated
def test_a_plain_script_without_a_main_guard_runs_the_job_silently(scenes, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import avprep\n"
        f"report = avprep.clip_dataset({str(scenes)!r}, 'out', spec=avprep.ClipSpec(size=32), workers=0)\n"
        "open('report.txt', 'a').write(f'{report.written} ')\n"
    )
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "report.txt").read_text() == "6 "  # run once, by the script alone
