"""`avprep invert-audio`: whatever holds mel stacks becomes one .wav a clip."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

from avprep.cli import main
from avprep.dsp import griffin_lim
from avprep.dsp.mel import mel_stack, pad_with_silence
from avprep.dsp.psnr import psnr_a
from avprep.shards.clips import load_npy
from avprep.shards.tar import read_shard
from tests.made_clips import TINY, write_clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("invert") / "clips", sources=2, clips_each=2, shard_size=3)


@pytest.fixture(scope="module")
def stacks(clips):
    """The mel stack of each key."""
    found = {}
    for shard in sorted((clips / "shards").iterdir()):
        for key, members in read_shard(io.BytesIO(shard.read_bytes())):
            found[key] = load_npy(members["mel.npy"])
    return found


def invert(source, out, *args):
    command = ["invert-audio", str(source), "--out", str(out), "--iterations", "4", *map(str, args)]
    return CliRunner().invoke(main, command)


def waves(out):
    return {path.stem: soundfile.read(path) for path in sorted(out.glob("*.wav"))}


def test_an_output_of_clips_becomes_a_wav_a_clip(clips, stacks, tmp_path):
    result = invert(clips, tmp_path / "wav")
    assert result.exit_code == 0, result.output
    made = waves(tmp_path / "wav")
    assert made.keys() == stacks.keys()
    for samples, rate in made.values():
        assert samples.shape == (TINY.samples,) and rate == TINY.sample_rate and np.abs(samples).max() > 0.01
    assert f"{len(stacks)} clips in {tmp_path / 'wav'}: mel PSNR mean" in result.output


def test_the_files_own_psnr_is_printed(clips, stacks, tmp_path):
    """It is what one measures who reads the file; the summary's figures are those of the lines."""
    lines, summary = printed(invert(clips, tmp_path / "wav"))
    assert lines.keys() == stacks.keys()
    for key, (solution, file) in lines.items():
        assert file == pytest.approx(psnr_of_file(tmp_path / "wav" / f"{key}.wav", stacks[key]), abs=0.006)
        assert file < solution - 0.05
    means = re.findall(r"mean (\S+) dB, least (\S+) dB", summary)
    for (mean, least), values in zip(means, np.array(list(lines.values())).T, strict=True):
        assert float(mean) == pytest.approx(values.mean(), abs=0.011) and float(least) == values.min()


def test_the_files_samples_are_the_solutions_rounded(clips, stacks, tmp_path):
    (tmp_path / "spec.json").write_bytes((clips / "spec.json").read_bytes())
    stack = next(iter(stacks.values())) * np.float16(0.4) - np.float16(0.4)  # below full scale
    np.save(tmp_path / "one.npy", stack)
    assert invert(tmp_path / "one.npy", tmp_path / "wav").exit_code == 0
    wanted = griffin_lim.invert(torch.from_numpy(stack)[None], TINY, iterations=4).waveform[0].numpy()
    samples, _ = soundfile.read(tmp_path / "wav" / "one.wav", dtype="int16")
    assert 3000 < np.abs(samples).max() < 32767 and np.abs(samples - 32768 * wanted).max() <= 0.5


def printed(result) -> tuple[dict[str, tuple[float, float]], str]:
    """The two PSNRs printed for each key, and the summary."""
    *lines, summary = result.output.strip().splitlines()
    found = (re.fullmatch(r"(\S+)\.wav +(\S+) dB, file +(\S+) dB", line).groups() for line in lines)
    return {key: (float(solution), float(file)) for key, solution, file in found}, summary


def psnr_of_file(path, stack) -> float:
    samples, _ = soundfile.read(path, dtype="float32")
    again = mel_stack(pad_with_silence(torch.from_numpy(samples)[None], TINY), TINY)
    return psnr_a(torch.from_numpy(stack)[None].float(), again).item()


def test_silent_clips_do_not_lift_the_mean(stacks, clips, tmp_path):
    (tmp_path / "spec.json").write_bytes((clips / "spec.json").read_bytes())
    one = next(iter(stacks.values()))
    np.save(tmp_path / "two.npy", np.stack([one, np.full_like(one, -1)]))
    np.save(tmp_path / "silence.npy", np.full_like(one, -1))
    *_, summary = invert(tmp_path / "two.npy", tmp_path / "wav").output.splitlines()
    mean, least = re.search(r"PSNR mean (\S+) dB, least (\S+) dB", summary).groups()
    assert mean == least and summary.endswith("(1 sounding)")
    assert "all silent" in invert(tmp_path / "silence.npy", tmp_path / "quiet").output
    assert not soundfile.read(tmp_path / "quiet" / "silence.wav")[0].any()


def test_a_shard_alone_and_a_limit(clips, stacks, tmp_path):
    """A shard takes the spec of the output that it lies in, and sounds as it does there."""
    assert invert(clips, tmp_path / "all").exit_code == 0
    assert invert(clips / "shards" / "clips-000000.tar", tmp_path / "one", "--limit", 2).exit_code == 0
    one = waves(tmp_path / "one")
    assert list(one) == sorted(stacks)[:2]
    for key, (samples, _) in one.items():
        assert np.array_equal(samples, waves(tmp_path / "all")[key][0])


@pytest.mark.parametrize("order, dtype", [("C", "float16"), ("F", "float32")])
def test_anybodys_npy_of_one_stack_or_many(clips, stacks, order, dtype, tmp_path):
    several = np.asarray(np.stack(list(stacks.values())), dtype=dtype, order=order)
    (tmp_path / "spec.json").write_bytes((clips / "spec.json").read_bytes())
    np.save(tmp_path / "one.npy", several[0])
    np.save(tmp_path / "many.npy", several)
    assert invert(tmp_path / "one.npy", tmp_path / "a").exit_code == 0
    assert invert(tmp_path / "many.npy", tmp_path / "b").exit_code == 0
    a, b = waves(tmp_path / "a"), waves(tmp_path / "b")
    assert list(a) == ["one"] and list(b) == [f"many_{i:05d}" for i in range(len(stacks))]
    assert np.array_equal(a["one"][0], b["many_00000"][0])


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "holds no mel stack"),
        (b"no array", "holds no mel stack"),
        (np.zeros((3, 5, 7)), "a mel stack of (3, 5, 7); the spec says (16, 128, 16)"),
        (np.array([{}], dtype=object), "holds no mel stack"),
        (np.zeros((16, 128, 16), "U3"), "real numbers are wanted"),
        (np.full((16, 128, 16), np.nan), "lies in [-1, 1]; this one holds nan"),
        (np.full((16, 128, 16), -np.inf, np.float16), "this one holds -inf"),
        (np.where(np.arange(16), 1, -128).astype(np.int8) * np.ones((16, 128, 1), np.int8), "holds -128"),
    ],
)
def test_what_is_no_mel_stack_is_a_sentence(content, words, tmp_path):
    path = tmp_path / "stack.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    result = invert(path, tmp_path / "wav")
    assert result.exit_code == 2 and words in result.output and "Traceback" not in result.output


def test_a_folder_of_nothing_is_a_sentence(tmp_path):
    result = invert(tmp_path, tmp_path / "wav")
    assert result.exit_code == 2 and "holds no spec.json" in result.output


# --- resume ------------------------------------------------------------------------------------------------


def times(out) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(out.glob("*.wav"))}


def test_the_same_command_makes_only_what_is_missing(clips, stacks, tmp_path):
    out = tmp_path / "wav"
    first, _ = printed(invert(clips, out))
    whole, before = waves(out), times(out)
    gone = sorted(stacks)[1]
    (out / f"{gone}.wav").unlink()
    second = invert(clips, out, "--batch-size", 3)
    assert (
        printed(second)[0] == first
        and "4 clips" in second.output
        and ", 3 of them by an earlier run" in (second.output)
    )
    now = times(out)
    assert {name for name in now if now[name] == before[name]} == before.keys() - {f"{gone}.wav"}
    assert all(np.array_equal(samples, whole[key][0]) for key, (samples, _) in waves(out).items())


@pytest.mark.parametrize("changed", ["options", "stack"])
def test_another_stack_or_option_is_another_sound(changed, clips, stacks, tmp_path):
    (tmp_path / "spec.json").write_bytes((clips / "spec.json").read_bytes())
    one, two, *_ = stacks.values()
    np.save(tmp_path / "one.npy", one)
    assert invert(tmp_path / "one.npy", tmp_path / "wav").exit_code == 0
    ((before, _),) = waves(tmp_path / "wav").values()
    if changed == "stack":
        np.save(tmp_path / "one.npy", two)
    again = invert(tmp_path / "one.npy", tmp_path / "wav", *(["--seed", 1] if changed == "options" else []))
    assert again.exit_code == 0 and "earlier run" not in again.output
    ((after, _),) = waves(tmp_path / "wav").values()
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("torn", ['{"key": "a', "[]\n", '{"made_of": 1}\n', "null\n"])
def test_a_record_that_a_killed_run_left_unfinished_is_no_record(torn, clips, tmp_path):
    out = tmp_path / "wav"
    invert(clips, out)
    with open(out / "inverted.jsonl", "a") as file:
        file.write(torn)
    (out / ".x.wav.123.tmp").write_text("half")
    (out / ".mine.tmp").write_text("of another program")
    sorted(out.glob("*.wav"))[0].unlink()
    for earlier in (3, 4):
        result = invert(clips, out)
        assert result.exit_code == 0 and f", {earlier} of them by an earlier run" in result.output
    assert not (out / ".x.wav.123.tmp").exists() and (out / ".mine.tmp").exists()


def test_a_wav_is_whole_or_not_there(clips, tmp_path, monkeypatch):
    def fail(path, *_, **__):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("avprep.stages.invert_audio.soundfile.write", fail)
    result = invert(clips, tmp_path / "wav")
    assert result.exit_code == 1 and "No space left" in result.output
    assert not list((tmp_path / "wav").glob("*.wav*")) and not list((tmp_path / "wav").glob(".*.begun"))


def test_two_runs_do_not_write_into_one_folder(clips, tmp_path):
    import fcntl

    (tmp_path / "wav").mkdir()
    with open(tmp_path / "wav" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = invert(clips, tmp_path / "wav")
    assert result.exit_code == 2 and "is writing there" in result.output.replace("\n", " ")
