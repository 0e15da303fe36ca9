"""`avmodel evaluate` from the command line to its files."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from avmodel.cli import main
from avmodel.evaluate.observe import Look, Looks, SideObserver, SideObserverRequest, observe, resized
from avmodel.evaluate.options import Features
from avmodel.evaluate.sides import SideRequest
from avmodel.metrics.features import Clips
from avmodel.metrics.similarity import frame_similarity, shuffled_frame_similarity
from avprep.report.evaluation import read_tables
from avprep.shards.store import open_store
from tests.conftest import shared_file
from tests.made_clips import TINY, write_clips


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments), "--device", "cpu"])


def measured(out: Path) -> dict[tuple[str, str], dict]:
    entries = json.loads((out / "evaluation.json").read_text())
    return {(one["metric"], one["side"]): one for one in entries["measurements"]}


@pytest.fixture(scope="module")
def yamnet() -> str:
    return f"yamnet={shared_file('weights', 'yamnet_int8.npz')}"


def test_a_side_is_at_no_distance_from_itself_and_at_some_from_others(clips, yamnet, tmp_path):
    other = write_clips(tmp_path / "other", sources=6, clips_each=4, seed=5)
    for name, generated in (("same", clips), ("other", other)):
        done = run(
            "--reference", clips, "--generated", generated, "--features", yamnet, "--out", tmp_path / name
        )
        assert done.exit_code == 0, done.output
    same, others = (measured(tmp_path / name)[("FAD-yamnet", "both")] for name in ("same", "other"))
    assert same["value"] == pytest.approx(0, abs=1e-6)
    assert others["value"] > 0.01 and others["clips"] == "24 and 24"
    assert others["features"].startswith("yamnet 98c25979e525")
    assert others["low"] < others["value"] < others["high"]


@pytest.mark.slow
def test_workers_change_nothing(clips, yamnet):
    name, _, path = yamnet.partition("=")
    side = SideRequest(path=clips, mdsa=None, spec=TINY, crop="pad", device="cpu")
    looks = Looks(features=(Features(name=name, weights=Path(path)),), size=32, has_av_align=True)
    request = SideObserverRequest(side=side, looks=looks)
    positions = np.array([0, 3, 4, 5, 6, 9, 10, 11, 15, 16, 17, 20, 22])
    done: list[int] = []
    one = observe(request, positions, workers=1, progress=done.append)
    two = observe(request, positions, workers=2, progress=done.append)
    assert sum(done) == 2 * len(positions)
    assert one.keys() == two.keys() == {"features/yamnet", "onsets", "peaks"}
    assert all(np.array_equal(one[name], two[name], equal_nan=True) for name in one)
    assert one["features/yamnet"].shape == (13, 1024)
    part = observe(request, positions[4:6], workers=1, progress=done.append)
    assert np.array_equal(part["features/yamnet"], one["features/yamnet"][4:6])


def test_a_network_without_its_file_gives_its_source_and_no_number(clips, tmp_path):
    done = run("--reference", clips, "--generated", clips, "--table", "1", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    rows = measured(tmp_path)
    for metric in ("FVD", "KVD", "FAD-audioclip"):
        assert rows[(metric, "both")]["value"] is None
    assert "bec6519f66ea534e" in rows[("FVD", "both")]["note"]
    assert "AudioCLIP-Full-Training.pt" in rows[("FAD-audioclip", "both")]["note"]


def test_clap_without_its_folder_says_which_and_gives_no_number(clips, tmp_path):
    done = run("--reference", clips, "--generated", clips, "--features", "clap", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    rows = measured(tmp_path)
    for metric in ("FAD-clap", "KAD-clap", "clap_text_audio"):
        row = rows[(metric, "both")]
        assert row["value"] is None and "model.safetensors" in row["note"]
        assert "laion/clap-htsat-unfused (checksum not known here)" in row["note"]


class Echo:
    """A network that embeds a text by its length and letters, and a sound by its level."""

    name, width, sha256, side = "echo", 2, "0" * 64, "audio"

    def __call__(self, clips: Clips) -> np.ndarray:
        return np.stack([np.abs(clips.waveform).mean(1), clips.waveform.std(1)], axis=-1)[:, None]

    def texts(self, texts: list[str]) -> np.ndarray:
        self.heard = texts
        return np.array([[len(text), len(set(text))] for text in texts], np.float32)


@pytest.mark.parametrize(
    ("caption", "labels", "text"),
    [
        ("Rain falls.", ("Rain", "Roof"), "Rain falls."),
        ("", ("Rain", "Roof"), "This is a sound of Rain, Roof."),
        ("", (), None),
    ],
)
def test_a_clip_is_compared_with_its_caption_or_else_its_labels(clips, caption, labels, text):
    side = SideRequest(path=clips, mdsa=None, spec=TINY, crop="pad", device="cpu").open(batch_size=1)
    clip = side.read(np.array([0]))[0]._replace(caption=caption, labels=labels)
    network = Echo()
    rows = Look([network], size=32, has_av_align=False)(clip, side)
    assert rows.keys() == {"features/echo", "texts/echo"} and rows["texts/echo"].shape == (2,)
    if text is None:
        assert np.isnan(rows["texts/echo"]).all() and not hasattr(network, "heard")
    else:
        assert network.heard == [text] and rows["texts/echo"][0] == len(text)


def test_each_side_has_its_own_similarity_of_sound_and_text(clips, videos, tmp_path, monkeypatch):
    """A folder of files has no texts, which is said in place of a number."""
    for module in ("avmodel.evaluate.observe", "avmodel.evaluate.run"):
        monkeypatch.setattr(f"{module}.load_extractor", lambda name, weights: Echo())
    sides = ("--reference", clips, "--generated", videos)
    done = run(*sides, "--features", "echo=made", "--bootstrap", 0, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    rows = measured(tmp_path)
    assert rows[("echo_text_audio", "generated")]["value"] is None
    assert "no generated clip has a caption or a label" in rows[("echo_text_audio", "generated")]["note"]
    reference = rows[("echo_text_audio", "reference")]
    assert 0 < reference["value"] <= 1 and reference["clips"] == "24"


class Pair:
    """A network that embeds a frame by its mean colour, and a sound by its level in three parts."""

    width, sha256, side = 3, "1" * 64, "video"

    def __init__(self, name: str = "pair", *, is_deaf: bool = False) -> None:
        self.name, self.is_deaf = name, is_deaf

    def __call__(self, clips: Clips) -> np.ndarray:
        return self.frames(clips).mean(axis=1, keepdims=True)

    def frames(self, clips: Clips) -> np.ndarray:
        return 1 + clips.frames.mean(axis=(2, 3)).astype(np.float32)

    def sounds(self, clips: Clips) -> np.ndarray:
        parts = np.array_split(np.abs(clips.waveform), 3, axis=1)
        return np.stack([part.max(axis=1) for part in parts], axis=-1) * (not self.is_deaf)


@dataclass(frozen=True)
class PairRequest:
    """Looks through `Pair`, in this process or in another."""

    side: SideRequest

    def open(self) -> SideObserver:
        return SideObserver(self.side.open(batch_size=4), Look([Pair()], size=None, has_av_align=False), 0)


def paired_rows(clips: Path, *, workers: int) -> dict[str, np.ndarray]:
    side = SideRequest(path=clips, mdsa=None, spec=TINY, crop="pad", device="cpu")
    return observe(PairRequest(side), np.arange(24), workers=workers, progress=lambda done: None)


def test_each_frame_and_the_sound_are_kept_of_a_network_that_pairs_them(clips):
    rows = paired_rows(clips, workers=1)
    assert rows.keys() == {"features/pair", "frames/pair", "sounds/pair"}
    assert rows["frames/pair"].shape == (24, TINY.frames, 3) and rows["frames/pair"].dtype == np.float32
    assert rows["sounds/pair"].shape == rows["features/pair"].shape == (24, 3)
    np.testing.assert_allclose(rows["features/pair"], rows["frames/pair"].mean(axis=1), rtol=1e-6)


@pytest.mark.slow
def test_workers_change_no_pair(clips):
    one, two = (paired_rows(clips, workers=workers) for workers in (1, 2))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


def loads(monkeypatch: pytest.MonkeyPatch, network: Pair) -> None:
    for module in ("avmodel.evaluate.observe", "avmodel.evaluate.run"):
        monkeypatch.setattr(f"{module}.load_extractor", lambda name, weights: network)


def test_each_side_has_its_own_similarity_of_pictures_and_sound(clips, videos, tmp_path, monkeypatch):
    loads(monkeypatch, Pair())
    sides = ("--reference", clips, "--generated", videos, "--size", 16)
    done = run(*sides, "--features", "pair=made", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    found, rows = measured(tmp_path), paired_rows(clips, workers=1)
    reference = found[("cs_pair", "reference")]
    pairs = rows["frames/pair"], rows["sounds/pair"]
    assert reference["value"] == pytest.approx(frame_similarity(*pairs).mean(), abs=1e-6)
    assert f"shuffled baseline {shuffled_frame_similarity(*pairs):.3f}" in reference["note"]
    assert reference["clips"] == "24" and reference["low"] < reference["value"] < reference["high"]
    assert reference["features"] == "pair 111111111111"
    assert 0 < found[("cs_pair", "generated")]["value"] != reference["value"]
    assert ("FD-pair", "both") in found and ("pair_text_audio", "reference") not in found


def test_imagebind_s_similarities_stand_under_their_names(clips, tmp_path, monkeypatch):
    loads(monkeypatch, Pair("imagebind"))
    sides = ("--reference", clips, "--generated", clips)
    done = run(*sides, "--features", "imagebind=made", "--bootstrap", 0, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    found = measured(tmp_path)
    for side in ("generated", "reference"):
        for metric in ("IB-AV", "AVHScore", "JavisScore"):
            assert 0 < found[(metric, side)]["value"] <= 1
            assert "shuffled baseline 0." in found[(metric, side)]["note"]
    assert ("FD-imagebind", "both") in found and not [name for name, _ in found if name.startswith("cs_")]


def test_sounds_without_a_direction_are_a_reason_and_no_crash(clips, tmp_path, monkeypatch):
    loads(monkeypatch, Pair("imagebind", is_deaf=True))
    sides = ("--reference", clips, "--generated", clips)
    done = run(*sides, "--features", "imagebind=made", "--bootstrap", 0, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    found = measured(tmp_path)
    for metric in ("IB-AV", "AVHScore", "JavisScore"):
        for side in ("generated", "reference"):
            assert found[(metric, side)]["value"] is None
            assert "0 in every value" in found[(metric, side)]["note"]
    assert found[("FD-imagebind", "both")]["value"] is not None


def test_imagebind_without_its_file_says_which_and_gives_no_number(clips, tmp_path):
    sides = ("--reference", clips, "--generated", clips)
    done = run(*sides, "--features", "imagebind", "--features", "audioclip", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    found = measured(tmp_path)
    for metric in ("FD-imagebind", "KD-imagebind", "IB-AV", "AVHScore", "JavisScore"):
        row = found[(metric, "both")]
        assert row["value"] is None and "imagebind_huge.pth" in row["note"]
        assert "CC BY-NC 4.0" in row["note"] and "checksum not known here" in row["note"]
    assert found[("cs_audioclip", "both")]["value"] is None
    assert "AudioCLIP-Full-Training.pt" in found[("cs_audioclip", "both")]["note"]


def test_the_paper_s_rows_stand_under_ours_and_say_why_they_do_not_compare(clips, tmp_path):
    done = run("--reference", clips, "--generated", clips, "--table", "1", "--out", tmp_path)
    last = [line for line in done.output.splitlines() if line][-2:]
    assert last[0].startswith("FAD ") and "as published" in last[0] and "not comparable" in last[0]
    assert "not known to this tool" in last[1]
    table = read_tables(open_store(tmp_path), ("",), print)[0]
    assert table.columns[:3] == ("metric", "side", "value") and table.rows[-1][2] == "8 to 12"
    assert "| FAD | paper | 8 to 12 |" in (tmp_path / "evaluation.md").read_text()


def test_the_protocol_is_printed_and_stored_with_every_number(clips, tmp_path):
    done = run("--reference", clips, "--generated", clips, "--protocol", "stylegan-v", "--out", tmp_path)
    assert "protocol stylegan-v: one random window per video" in done.output
    stored = json.loads((tmp_path / "evaluation.json").read_text())
    assert stored["protocol_fields"]["one_per_video"] is True
    assert stored["sides"]["reference"]["windows"] == 24
    rows = list(csv.DictReader((tmp_path / "evaluation.csv").open()))
    assert {row["protocol"] for row in rows} == {"stylegan-v"}


def test_sides_that_differ_are_warned_of_by_field(clips, videos):
    done = run("--reference", clips, "--generated", videos)
    assert done.exit_code == 0, done.output
    assert "the sides differ in size: 48x32 and 16x16 (generated and reference)" in done.output
    assert "the sides differ in codec: h264 and raw" in done.output
    assert "generated: 2 files left out, first damaged.mp4" in done.output


def test_seeds_measure_other_clips(clips, yamnet, tmp_path):
    other = write_clips(tmp_path / "other", sources=6, clips_each=4, seed=5)
    done = run(
        *("--reference", clips, "--generated", other, "--features", yamnet, "--out", tmp_path / "out"),
        *("--seeds", 3, "--n", 8, "--bootstrap", 0),
    )
    assert done.exit_code == 0, done.output
    found = measured(tmp_path / "out")[("FAD-yamnet", "both")]
    assert len(set(found["per_seed"])) == 3 and found["low"] is None
    assert found["value"] == pytest.approx(np.mean(found["per_seed"]))


def test_reconstructions_have_the_psnr_of_avmodel_reconstruct(mdsa, tmp_path):
    clips = write_clips(tmp_path / "clips", sources=2, clips_each=2)
    done = run("--recon", "--reference", clips, "--mdsa", mdsa, "--table", "6", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    arguments = ["reconstruct", "--ckpt", mdsa, "--clips", clips, "--out", tmp_path / "seen"]
    assert CliRunner().invoke(main, [*map(str, arguments), "--device", "cpu"]).exit_code == 0
    lines = (tmp_path / "seen" / "reconstructions.jsonl").read_text().splitlines()[1:]
    expected = {name: np.mean([json.loads(line)[name] for line in lines]) for name in ("psnr_v", "psnr_a")}
    rows = measured(tmp_path / "out")
    assert rows[("PSNR-V", "both")]["value"] == pytest.approx(expected["psnr_v"], abs=1e-3)
    assert rows[("PSNR-A", "both")]["value"] == pytest.approx(expected["psnr_a"], abs=1e-3)
    assert -1 <= rows[("SSIM", "both")]["value"] < 1
    assert "+0.85 and +1.40 dB" in done.output


def test_table_7_is_the_information_between_planes_of_latents(latents, mdsa, tmp_path):
    sides = ("--reference", latents, "--generated", latents, "--mdsa", mdsa)
    done = run(*sides, "--table", "7", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    planes = [metric for metric, _ in measured(tmp_path) if metric.startswith("MI ")]
    assert len(planes) == 9 and "MI v_tw, v_th" in planes and "MI v_hw, a_hw" in planes


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--features", "resnet"), "features are"),
        (("--features", "yamnet=nowhere.npz"), "no weights at nowhere.npz"),
        (("--table", "5"), "--table 5: the paper's is of reconstructions; it needs --recon"),
        (("--table", "7"), "--table 7: the reference must be latents"),
    ],
)
def test_what_cannot_be_measured_ends_with_a_message(clips, arguments, message):
    done = run("--reference", clips, "--generated", clips, *arguments)
    assert done.exit_code == 2 and message in " ".join(done.output.split()), done.output


def test_one_side_alone_is_refused(clips):
    assert run("--generated", clips).exit_code == 2
    done = run("--reference", clips)
    assert done.exit_code == 2 and "--generated" in done.output


def test_frames_are_resized_without_aliasing():
    """A checkerboard of single pixels becomes grey at half of its size."""
    board = (np.indices((8, 8)).sum(0) % 2 * 255).astype(np.uint8)
    frames = np.repeat(board[None, ..., None], 3, axis=3)
    small = resized(frames, 4)
    assert small.shape == (1, 4, 4, 3) and abs(int(small[0, 1:3, 1:3].mean()) - 127) <= 12
    assert resized(frames, None) is frames and resized(frames, 8) is frames
