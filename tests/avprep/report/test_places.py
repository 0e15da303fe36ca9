"""Where what a report shows may lie: in an object store, and decoded videos beside latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avprep.media.mux import write_mp4
from avprep.report.build import write_report
from avprep.report.config import ReportConfig
from tests.avmodel.made_latents import write_latents
from tests.avprep.report.made_output import write_output
from tests.fake_encoder import fake_header
from tests.made_clips import TINY

OFF_BY = 16  # grey levels between the original and the decoded half


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return write_output(tmp_path_factory.mktemp("made") / "out")


def test_an_output_in_an_object_store_has_the_media_and_the_counts_of_a_local_one(out, tmp_path):
    local = write_report(str(out), tmp_path / "local", ReportConfig(clips=4))[0].parent
    stored = write_report(out.as_uri(), tmp_path / "stored", ReportConfig(clips=4))[0].parent
    media = [{p.name: p.read_bytes() for p in (f / "media").iterdir()} for f in (local, stored)]
    assert media[0] and media[0] == media[1]
    pages = [(f / "index.html").read_text() for f in (local, stored)]
    assert pages[1].replace(out.as_uri(), str(out)) == pages[0].replace(out.as_uri(), str(out))


@pytest.fixture(scope="module")
def latents(tmp_path_factory) -> Path:
    return write_latents(tmp_path_factory.mktemp("latents") / "out", fake_header(TINY), count=4)


def write_decoded(folder: Path, keys: list[str], *, halves: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    original = np.full((TINY.frames, TINY.size, TINY.size, 3), 100, np.uint8)
    frames = np.concatenate([original, original + OFF_BY][:halves], axis=2)
    for key in keys:
        sound = rng.uniform(-0.1, 0.1, TINY.samples).astype(np.float32)
        write_mp4(folder / f"{key}.mp4", frames, sound, fps=TINY.fps, sample_rate=TINY.sample_rate, crf=1)


def keys_of(latents: Path) -> list[str]:
    from avprep import read_ledger

    return read_ledger(str(latents))["key"].to_pylist()


def test_latents_show_the_videos_that_were_decoded_and_their_psnr(latents, tmp_path):
    keys = keys_of(latents)
    write_decoded(tmp_path / "decoded", keys[:2], halves=2)
    config = ReportConfig(decoded=str(tmp_path / "decoded"))
    page = write_report(str(latents), tmp_path / "report", config)[0]
    assert len(list((tmp_path / "report/media").glob("*.mp4"))) == 2
    expected = 20 * np.log10(255 / OFF_BY)
    found = [float(part.split(" dB")[0]) for part in page.read_text().split("decoded right: PSNR ")[1:]]
    assert found == pytest.approx([expected] * 2, abs=0.7)  # limited-range YUV rounds a level either way


def test_latents_without_decoded_videos_show_their_planes(latents, tmp_path):
    page = write_report(str(latents), tmp_path / "report", ReportConfig())[0]
    assert not list((tmp_path / "report/media").glob("*.mp4")) and "PSNR" not in page.read_text()
    assert list((tmp_path / "report/media").glob("*.png"))


def test_videos_of_the_decoded_clip_alone_have_no_psnr(latents, tmp_path):
    write_decoded(tmp_path / "decoded", keys_of(latents)[:1], halves=1)
    config = ReportConfig(decoded=str(tmp_path / "decoded"))
    page = write_report(str(latents), tmp_path / "report", config)[0]
    assert len(list((tmp_path / "report/media").glob("*.mp4"))) == 1 and "PSNR" not in page.read_text()
