"""The choice of `pipelines.audioset`, step by step, on a made AudioSet: each step removes what it is for.

Slow: the scores of eight clips take ten seconds.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from avprep.cli import main
from avprep.media.mux import write_mp4
from avprep.scenes.scenes import SCENES
from avprep.scenes.sketch import Timeline
from avprep.scenes.synth import Scene, render_scene
from tests.integration.test_pipelines import steps_of

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]
for module in ("rapidocr", "imagehash", "faiss"):
    pytest.importorskip(module, reason="the recipe's scores and copies need the extras `score` and `select`")

SPEECH, DOG, RAIN = "/m/09x0r", "/m/0bt9lr", "/m/06mb1"
TABLE = f"label_id,num_rated,num_true\n{SPEECH},10,9\n{RAIN},10,8\n{DOG},10,5\n"


def scene(index: int, size: int = 256) -> Scene:
    assert len(SCENES) == 10  # the indices below are chosen by what their scenes show
    return render_scene(index, seed=3, timeline=Timeline(2.0, 25, size, 44100))


def write(path: Path, frames: np.ndarray, waveform: np.ndarray) -> None:
    write_mp4(path, frames, waveform, fps=25, sample_rate=44100, preset="superfast")


# Name of a video -> its label and, if it is not chosen, the step that leaves it out.
VIDEOS = {
    "rain_______": (RAIN, ""),
    "siren______": (RAIN, ""),
    "engine_____": (RAIN, ""),
    "dog________": (DOG, "label quality"),
    "silent_____": (SPEECH, "content"),
    "still______": (SPEECH, "content"),
    "small______": (SPEECH, "media"),
    "eval_______": (SPEECH, "leakage"),
    "copy_______": (RAIN, "leakage"),
    "missing____": (SPEECH, "pool"),
}


@pytest.fixture
def audioset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "data" / "audioset"
    root.mkdir(parents=True)
    rows = [f'{name}, 0.000, 2.000, "{label}"' for name, (label, _) in VIDEOS.items()]
    (root / "unbalanced_train_segments.csv").write_text("\n".join(rows))
    (root / "eval_segments.csv").write_text(f'eval_______, 70.000, 80.000, "{SPEECH}"\n')
    (root / "qa_true_counts.csv").write_text(TABLE)
    for name, index in (("rain", 1), ("siren", 2), ("engine", 5), ("dog", 14), ("eval", 9), ("copy", 1)):
        found = scene(index)
        write(root / f"{name:_<11}.mp4", found.frames, found.waveform * (0.7 if name == "copy" else 1.0))
    moving = scene(4)
    write(root / "silent_____.mp4", moving.frames, moving.waveform * 1e-4)
    write(root / "still______.mp4", np.repeat(moving.frames[:1], len(moving.frames), 0), moving.waveform)
    small = scene(4, size=128)
    write(root / "small______.mp4", small.frames, small.waveform)
    monkeypatch.setenv("AVPREP_DATA", str(tmp_path / "data"))
    return root


def commands(out: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The recipe's steps, by their names, until a model would be trained."""
    split = [shlex.split(step.replace("OUT", str(out))) for _, step in steps_of("audioset", monkeypatch)]
    programs = [program for program, *_ in split]
    return {command[0]: command for _, *command in split[: programs.index("avmodel")]}


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def sources_of(ids: Path) -> list[str]:
    return sorted(line.split("\t")[0].removesuffix(".mp4") for line in ids.read_text().splitlines()[1:])


def removed(funnel: str) -> set[str]:
    """What removes a clip, by the first word of its line."""
    lines = [line.split() for line in funnel.splitlines() if "  (-" in line]
    return {words[1] for words in lines}


def test_each_step_removes_what_it_is_for(audioset, tmp_path, monkeypatch):
    out = tmp_path / "out"
    steps = commands(out, monkeypatch)
    assert list(steps) == ["clip", "verify", "score", "select", "report"]
    clip = run(*steps["clip"], "--workers", "0")
    assert (out / "missing.tsv").read_text() == "missing____\t0\t2\n"
    assert "1 rows without a label of" in clip and "8 planned = 8 written" in clip
    run(*steps["verify"])
    run(*steps["score"], "--workers", "0")
    funnel = run(*steps["select"])
    one_of_two = {"rain_______", "copy_______"}  # the draw says which of the copies stays
    kept = {name for name, (_, lost) in VIDEOS.items() if not lost} - one_of_two
    found = sources_of(out / "chosen.tsv")
    assert len(found) == len(kept) + 1 and {*found} - one_of_two == kept
    assert removed(funnel) == {
        "loudness_lufs",
        "frozen_share",
        "source_height",
        "exclude_ids",
        "near-duplicates",
    }
    run(*steps["report"])
    assert "chosen" in (out / "report" / "index.html").read_text()


def test_correspondence_and_the_balanced_draw_act_on_what_is_left(audioset, tmp_path, monkeypatch):
    steps = commands(tmp_path / "out", monkeypatch)
    run(*steps["clip"], "--workers", "0")
    run(*steps["score"], "--workers", "0")
    assert "onsets >= 1 and motion_peaks >= 1 and av_align > 0.1" in " ".join(steps["select"])
    stricter = [word.replace("onsets >= 1", "onsets >= 5") for word in steps["select"]]
    assert "onsets >= 5  (-2)" in run(*stricter)  # of 3 and 4
    assert "engine_____" not in sources_of(tmp_path / "out" / "chosen.tsv")
    balanced = run(*["2" if word == "400" else word for word in steps["select"]])
    assert "2  2 per label" in balanced and len(sources_of(tmp_path / "out" / "chosen.tsv")) == 2
