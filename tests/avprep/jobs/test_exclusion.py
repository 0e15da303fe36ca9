"""Lists of excluded ids, in the forms in which they are published."""

from __future__ import annotations

from pathlib import Path

import pytest

from avprep.errors import ArgumentError
from avprep.jobs.exclusion import is_excluded, read_ids

META = Path(__file__).parents[4] / "shared" / "meta"


@pytest.mark.parametrize(
    "line",
    [
        "--4gqARaEJE",
        '--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_"',
        "--4gqARaEJE_0\t1.1\t2.2\t/m/068hy",
        "--4gqARaEJE_000000.mp4,dog barking",
        '"--4gqARaEJE",0',
    ],
)
def test_a_line_excludes_all_files_of_its_video(tmp_path, line: str):
    listed = tmp_path / "list.csv"
    listed.write_text(f"# made in 2017\nYTID,start,label\n{line}\n\n")
    ids = read_ids(listed)
    for name in ("--4gqARaEJE.mp4", "eval/--4gqARaEJE_30_40.mkv", "id_--4gqARaEJE.mp4"):
        assert is_excluded(name, ids)
    for name in ("--BfvyPmVMo.mp4", "4gqARaEJE.mp4", "YTID.mp4", "start.mp4"):
        assert not is_excluded(name, ids)


def test_paths_names_and_stems_exclude_files_of_other_names(tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("dance/gBR_sBM_c01_d04_mBR0_ch01.mp4\nfirst take.mov\nstem only\n")
    ids = read_ids(listed)
    assert is_excluded("dance/gBR_sBM_c01_d04_mBR0_ch01.mp4", ids)
    assert is_excluded("b/first take.mov", ids) and is_excluded("c/stem only.webm", ids)
    assert not is_excluded("other/gBR_sBM_c01_d04_mBR0_ch01.mp4", ids)
    assert not is_excluded("first take.mp4", ids)


def test_a_file_without_ids_is_refused(tmp_path):
    (tmp_path / "empty.csv").write_text("# nothing\nYTID,start\n")
    with pytest.raises(ArgumentError, match="^exclude_ids = .*holds no id"):
        read_ids(tmp_path / "empty.csv")
    with pytest.raises(ArgumentError, match="^exclude_ids = .*is no file"):
        read_ids(tmp_path / "none.csv")


@pytest.mark.skipif(not META.is_dir(), reason="the published lists are not here")
@pytest.mark.parametrize(
    ("name", "count", "id_"),
    [
        ("audioset_eval_segments.csv", 20_371, "--4gqARaEJE"),
        ("ast_official_eval_segments.csv", 20_000, "--U7joUcTCo"),
        ("vggsound_test.csv", 14_800, "glLQrEijrKg"),
        ("mmaudio_vgg-test.tsv", 14_000, "---g-f_I2yQ"),
    ],
)
def test_the_published_lists_are_read_as_they_are(name: str, count: int, id_: str):
    ids = read_ids(META / name)
    assert len({text for text in ids if len(text) == 11}) >= count
    assert is_excluded(f"videos/{id_}_000030.mp4", ids)
