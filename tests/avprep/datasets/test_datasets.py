from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avprep.datasets import DATASETS, default_root, landscape, list_dataset, vggsound
from avprep.datasets.audioset import class_names, read_segments
from avprep.datasets.listing import LINKS_NOT_ENTERED
from avprep.datasets.manifest import NO_PATH
from avprep.datasets.source import DatasetError, DatasetOptions, Listing
from avprep.datasets.youtube import Segment, match, parse_name
from tests.conftest import shared_file


def tree(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def listing(name: str, root: Path, **options) -> Listing:
    return list_dataset(name, DatasetOptions(root=root, **options))


# --- AudioSet


def test_all_variants_of_the_balanced_list_say_the_same():
    notes = Counter()
    lists = [
        list(read_segments(shared_file("meta", name), notes))
        for name in (
            "audioset_balanced_train_segments.csv",
            "variant_balanced_train_aoifemcdonagh.csv",
            "variant_balanced_train_drummernet.csv",
        )
    ]
    assert [len(segments) for segments in lists] == [22160] * 3
    assert lists[0] == lists[1] == lists[2]
    assert sum(len(segment.labels) for segment in lists[0]) == 52882  # num_positive_labels of the header
    assert len(class_names()) == 527
    assert not +notes


def test_the_list_that_another_tool_requoted_says_the_same():
    official = list(read_segments(shared_file("meta", "audioset_eval_segments.csv"), Counter()))
    requoted = list(read_segments(shared_file("meta", "ast_official_eval_segments.csv"), Counter()))
    assert len(official) == 20371
    assert official == requoted


AUDIOSET_ROWS = """# YTID, start_seconds, end_seconds, positive_labels
--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"
_BfvyPmVMo1, 20.000, 30.000, "/m/03l9g"
abcdefghij0, 0.000, 10.000, "/m/09x0r"
abcdefghij0, 50.000, 60.000, "/m/03l9g"
deletedvid0, 0.000, 10.000, "/m/09x0r"
"""


@pytest.mark.parametrize(
    ("name", "span"),
    [
        ("--PJHxphWEs_30000_40000.mp4", (0.0, None, False)),
        ("--PJHxphWEs_40.000.mkv", (0.0, None, False)),
        ("--PJHxphWEs_000030.mp4", (0.0, None, False)),
        ("--PJHxphWEs.mp4", (30.0, 40.0, True)),
        ("id_--PJHxphWEs.webm", (30.0, 40.0, True)),
        ("Speech/--PJHxphWEs_30000_40000.mp4", (0.0, None, False)),
    ],
)
def test_audioset_files_are_found_however_they_are_named(name, span, tmp_path):
    (tree(tmp_path, f"videos/{name}") / "balanced_train_segments.csv").write_text(AUDIOSET_ROWS)
    found = listing("audioset", tmp_path)
    assert [(s.start_s, s.stop_s, s.maybe_trimmed) for s in found.sources] == [span]
    assert found.sources[0].labels == ("Speech", "Gush")
    assert found.sources[0].caption == ""  # it is made from the labels of each clip
    assert found.notes["rows without a file (deleted videos are normal)"] == 4


def test_audioset_copies_and_strangers_are_counted(tmp_path):
    tree(
        tmp_path,
        "Speech/--PJHxphWEs_30000_40000.mp4",
        "Gush/--PJHxphWEs_30000_40000.mp4",
        "x/--PJHxphWEs_70000_80000.mp4",
        "x/notanid.mp4",
        "x/zzzzzzzzzzz.mp4",
    )
    (tmp_path / "eval_segments.csv").write_text(AUDIOSET_ROWS)
    found = listing("audioset", tmp_path, split="eval")
    assert [s.path for s in found.sources] == ["Gush/--PJHxphWEs_30000_40000.mp4"]
    assert found.notes["copies of a file in other folders"] == 1
    assert found.notes["files not named by a video id"] == 1
    assert found.notes["files without a row"] == 2


def test_two_segments_of_one_video_find_their_own_files(tmp_path):
    tree(tmp_path, "abcdefghij0_0_10000.mp4", "abcdefghij0_50000_60000.mp4")
    (tmp_path / "eval_segments.csv").write_text(AUDIOSET_ROWS)
    found = {s.path: s.labels for s in listing("audioset", tmp_path).sources}
    assert (
        found == {"abcdefghij0_0_10000.mp4": ("Speech",), "abcdefghij0_50000_60000.mp4": ("Hiccup",)}
        or found["abcdefghij0_0_10000.mp4"] != found["abcdefghij0_50000_60000.mp4"]
    )


def test_names_that_only_look_like_ids_are_none():
    assert parse_name("a/short.mp4") is None
    assert parse_name("a/abcdefghij0 copy.mp4") is None
    assert parse_name("a/abcdefghij0_40.000.mp4").readings == ((40.0,),)
    assert parse_name("a/abcdefghij0_000361.mp4").readings == ((361.0,),)
    assert parse_name("a/abcdefghij0_30_40").readings == ((0.03, 0.04), (30.0, 40.0))


@pytest.mark.parametrize(
    ("files", "rows", "found"),
    [
        (["_30_40"], [(30, 40)], {"_30_40": "30"}),
        (["_30000_40000"], [(30, 40)], {"_30000_40000": "30"}),
        (["_30_40"], [(0, 10), (30, 40)], {"_30_40": "30"}),  # 30 ms are near 0
        (["_30_40"], [(0, 10)], {}),
        (["_0_10"], [(0, 10)], {"_0_10": "0"}),
        (["_0_10000"], [(0, 10)], {"_0_10000": "0"}),
        (["_0_10", "_10_20"], [(0, 10), (10, 20)], {"_0_10": "0", "_10_20": "10"}),
        (["_30000_40000"], [(30, 40), (30000, 40000)], {"_30000_40000": "30"}),
        (["_30000_40000"], [(30000, 40000), (30, 40)], {"_30000_40000": "30"}),
        (["_30000_40000"], [(30000, 40000)], {"_30000_40000": "30000"}),
        (["_30_40"], [(30, 50), (20, 40)], {}),
        (["_30.0_40.0"], [(30, 40), (30000, 40000)], {"_30.0_40.0": "30"}),
        (["_30_40", "_30000_40000"], [(30, 40)], {"_30000_40000": "30"}),  # a copy of the other
    ],
)
def test_two_whole_numbers_are_milliseconds_or_seconds_as_the_rows_say(files, rows, found, tmp_path):
    segments = [Segment("abcdefghij0", float(a), float(b), (f"{a}",)) for a, b in rows]
    tree(tmp_path, *(f"abcdefghij0{name}.mp4" for name in files))
    sources = match(DatasetOptions(root=tmp_path), segments, Counter(), [])
    assert {s.path[11:-4]: s.labels[0] for s in sources} == found
    assert all((s.start_s, s.stop_s) == (0.0, None) for s in sources)


def test_files_named_by_an_id_are_taken_whatever_their_suffix_but_no_sidecar(tmp_path):
    ids = [f"abcdefghij{i}" for i in range(6)]
    tree(tmp_path, f"a/{ids[0]}.bin", f"b/{ids[0]}.webm", f"{ids[1]}", f"{ids[2]}.video", f"{ids[3]}.M2T")
    tree(
        tmp_path,
        *(
            f"{id_}{suffix}"
            for id_ in ids
            for suffix in (".json", ".JPG", ".webp", ".vtt", ".part", ".wav", ".npy", ".description")
        ),
    )
    tree(tmp_path, f"{ids[4]}.en.vtt", f"{ids[4]}.info.json", f"{ids[4]}.mp4.part", f"{ids[4]}.f137.mp4")
    rows = "".join(f'{id_}, 0.000, 10.000, "/m/09x0r"\n' for id_ in ids)
    (tmp_path / "eval_segments.csv").write_text(rows)
    found = listing("audioset", tmp_path)
    assert [s.path for s in found.sources] == [
        f"{ids[1]}",
        f"{ids[2]}.video",
        f"{ids[3]}.M2T",
        f"b/{ids[0]}.webm",
    ]
    assert found.notes == {
        "copies of a file in other folders": 1,
        "files not named by a video id": 1,
        "files that are no media, by their suffix": 6 * 8 + 3 + 1,
        "rows without a file (deleted videos are normal)": 2,
    }


SUFFIXES = "vob mxf dv f4v qt m2t rm rmvb nut mpe m2v m1v divx amv wtv gxf mk3d ogm trp ivf MP4".split()


def test_suffixes_of_containers_that_ffmpeg_opens_are_found(tmp_path):
    tree(tmp_path, *(f"a.{suffix}" for suffix in SUFFIXES), "a.txt", "a.mp3", "a", "a.json")
    found = listing("folder", tmp_path)
    assert [s.path for s in found.sources] == sorted(f"a.{suffix}" for suffix in SUFFIXES)
    assert found.notes == {"files that are no media, by their suffix": 4}


# --- links to folders


def linked_tree(tmp_path: Path) -> Path:
    """A root beside real/{x.mp4, sub/y.mp4}, with links to it, to itself, to its parent and to nothing."""
    root = tree(tmp_path / "root", "z.mp4", "dir/w.mp4")
    tree(tmp_path / "real", "x.mp4", "sub/y.mp4")
    for name, target in {
        "b": "../real",
        "a": "../real",
        "up": ".",
        "lost": "nowhere",
        "dir/back": "../..",
        "self.mp4": "self.mp4",
        "c.mp4": "../real/x.mp4",
    }.items():
        (root / name).symlink_to(target)
    return root


@pytest.mark.timeout(20)
def test_links_to_folders_are_told_and_entered_on_request(tmp_path):
    root = linked_tree(tmp_path)
    plain = listing("folder", root)
    # Links to files are files, and what a link to itself is, the plan finds out.
    assert [s.path for s in plain.sources] == ["c.mp4", "dir/w.mp4", "self.mp4", "z.mp4"]
    assert plain.notes[LINKS_NOT_ENTERED] == 4
    followed = listing("folder", root, follow_links=True)
    assert [s.path for s in followed.sources] == [
        "a/sub/y.mp4",
        "a/x.mp4",
        *[s.path for s in plain.sources],
    ]
    assert LINKS_NOT_ENTERED not in followed.notes
    assert followed.notes["folders reached twice, by links, and entered once"] >= 3


def test_a_root_of_nothing_but_a_link_says_so(tmp_path):
    tree(tmp_path / "real", "a.mp4")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "videos").symlink_to("../real")
    with pytest.raises(DatasetError, match="1 links to folders, which were not entered") as raised:
        listing("folder", tmp_path / "root")
    assert "mounted" not in str(raised.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="is its disk mounted?"):
        listing("folder", tmp_path / "empty")
    assert [s.path for s in listing("folder", tmp_path / "root", follow_links=True).sources] == [
        "videos/a.mp4"
    ]


@settings(max_examples=30, deadline=None)
@given(
    links=st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd.")), max_size=8, unique_by=str)
)
def test_any_graph_of_links_ends_and_gives_every_file_once(links):
    with TemporaryDirectory() as folder:
        root = tree(Path(folder), *(f"{name}/{name}.mp4" for name in "abcd"))
        for i, (place, target) in enumerate(links):
            (root / place / f"link{i}").symlink_to(root / target)
        found = [s.path for s in listing("folder", root, follow_links=True).sources]
    assert found == [f"{name}/{name}.mp4" for name in "abcd"]


# --- the others


def test_vggsound_lists():
    notes = Counter()
    test = list(vggsound.read_segments(shared_file("meta", "vggsound_test.csv"), notes))
    assert len(test) == 15446
    assert ("pigeon, dove cooing",) in {s.labels for s in test}
    assert len(list(vggsound.read_segments(shared_file("meta", "mmaudio_vgg-test.tsv"), notes))) == 15221
    assert not +notes


def test_vggsound_takes_the_clip_that_begins_where_the_row_says(tmp_path):
    tree(tmp_path, "clips/glLQrEijrKg_000300.mp4", "clips/glLQrEijrKg_000010.mp4")
    (tmp_path / "test.csv").write_text("glLQrEijrKg_000300.mp4,playing hammond organ\n")
    found = listing("vggsound", tmp_path, split="test").sources
    assert [(s.path, s.labels) for s in found] == [
        ("clips/glLQrEijrKg_000300.mp4", ("playing hammond organ",))
    ]


def test_landscapes_list_and_its_stray_header():
    path = shared_file("meta", "tempotokens_landscape.csv")
    rows = list(landscape.read_segments(path, Counter(), None))
    assert len(rows) == 1178
    assert {s.labels[0] for s in rows} == set(landscape.CLASSES)
    assert len(list(landscape.read_segments(path, Counter(), "test"))) == 102


def test_landscape_by_class_folders(tmp_path):
    tree(tmp_path, "train/fire_crackling/a.mp4", "test/wind noise/b.mp4", "train/dogs/c.mp4")
    found = listing("landscape", tmp_path)
    assert {(s.path, s.labels) for s in found.sources} == {
        ("train/fire_crackling/a.mp4", ("fire crackling",)),
        ("test/wind noise/b.mp4", ("wind noise",)),
    }
    assert found.notes["files in a folder that is none of the classes"] == 1
    assert len(listing("landscape", tmp_path, split="test").sources) == 1


def test_aist_splits_cameras_and_the_ignore_list(tmp_path):
    test = shared_file("meta", "aistpp_crossmodal_test.txt").read_text().split()
    ignored = shared_file("meta", "aistpp_ignore_list.txt").read_text().split()
    names = [name.replace("cAll", camera) for name in test for camera in ("c01", "c02")]
    tree(
        tmp_path,
        *(f"videos/{name}.mp4" for name in names),
        f"videos/{ignored[0].replace('cAll', 'c01')}.mp4",
        "videos/gKR_sBM_c01_d30_mKR2_ch09.mp4",
        "videos/other.mp4",
    )
    for kind in ("crossmodal_test", "ignore_list"):
        (tmp_path / f"{kind}.txt").write_text(shared_file("meta", f"aistpp_{kind}.txt").read_text())
    split = listing("aist", tmp_path, split="test")
    assert len(split.sources) == 2 * 20
    assert {s.labels[0] for s in split.sources} == {s.labels[0] for s in listing("aist", tmp_path).sources}
    everything = listing("aist", tmp_path)
    assert len(everything.sources) == 41
    assert everything.notes["files on the ignore list"] == 1
    assert everything.notes["files not named as AIST++ names them"] == 1
    assert len({s.labels for s in everything.sources}) == 10


def test_folder_walks_by_suffix_and_labels_on_request(tmp_path):
    tree(tmp_path, "a/x.MP4", "a/b/y.mkv", "z.webm", ".hidden/h.mp4", "a/readme.txt")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    plain = listing("folder", tmp_path)
    assert [s.path for s in plain.sources] == ["a/b/y.mkv", "a/x.MP4", "z.webm"]
    labelled = listing("folder", tmp_path, label_from_folder=True)
    assert [s.labels for s in labelled.sources] == [("b",), ("a",), ()]
    assert plain.notes["files that are no media, by their suffix"] >= 1


def test_a_manifest_in_any_of_its_forms(tmp_path):
    rows = [
        ("a.mp4", "0", "10", "dog|bark", "", "train"),
        ("b.mp4", "2.5", "", "", "a cat", "test"),
        ("x/../../evil.mp4", "0", "1", "", "", "train"),
        ("c.mp4", "9", "3", "", "", "train"),
    ]
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        text = "\n".join(
            delimiter.join(row) for row in [("path", "start", "stop", "labels", "caption", "split"), *rows]
        )
        (tmp_path / f"manifest{suffix}").write_text(text + "\n")
    columns = dict(
        zip(
            ("path", "start", "stop", "caption"),
            zip(*[(r[0], r[1], r[2], r[4]) for r in rows], strict=True),
            strict=True,
        )
    )
    pq.write_table(
        pa.table({k: list(v) for k, v in columns.items()} | {"labels": [["dog", "bark"], [], [], []]}),
        tmp_path / "manifest.parquet",
    )
    with open(tmp_path / "manifest.jsonl", "w") as file:
        for path, start, stop, labels, caption, split in rows:
            row = {
                "path": path,
                "start": float(start),
                "stop": float(stop) if stop else None,
                "labels": labels.split("|"),
                "caption": caption,
                "split": split,
                "extra": {"path": []},
            }
            file.write(json.dumps(row) + "\n\n")
    for suffix in (".csv", ".tsv", ".parquet", ".jsonl"):
        found = listing("manifest", tmp_path, list_file=tmp_path / f"manifest{suffix}")
        assert [(s.path, s.start_s, s.stop_s, s.labels, s.caption) for s in found.sources] == [
            ("a.mp4", 0.0, 10.0, ("dog", "bark"), ""),
            ("b.mp4", 2.5, None, (), "a cat"),
        ]
        assert sum(found.notes.values()) == 2 + (suffix == ".jsonl")
    assert [s.path for s in listing("manifest", tmp_path, split="test").sources] == ["b.mp4"]
    with pytest.raises(DatasetError, match="^split = 'dev': .*test, train"):
        listing("manifest", tmp_path, split="dev")


def test_a_manifest_of_odd_cells(tmp_path):
    """What pandas writes where nothing is known, labels with blanks, types of other columns."""
    columns = {
        "path": ["a.mp4", "b.mp4", None, "d.mp4"],
        "start": [0.0, math.nan, 0.0, None],
        "stop": [math.nan, 4.0, 1.0, math.inf],
        "labels": [[" dog ", None, ""], ["cat"], [], None],
        "caption": [7, 8, 9, None],
        "end": [1, 2, 3, 4],
    }
    pq.write_table(pa.table(columns), tmp_path / "manifest.parquet")
    found = listing("manifest", tmp_path)
    assert [(s.path, s.start_s, s.stop_s, s.labels, s.caption) for s in found.sources] == [
        ("a.mp4", 0.0, None, ("dog",), "7"),
        ("b.mp4", 0.0, 4.0, ("cat",), "8"),
    ]
    assert found.notes["rows whose start and stop are no span in seconds"] == 1
    assert found.bad_rows[-1].fault == "line 4 of manifest.parquet: stop inf is not finite"
    assert found.notes["columns that are not read (end)"] == 1
    assert found.notes[NO_PATH] == 1
    nothing = [math.nan]  # a whole column of which pandas knows nothing
    table = {"path": ["a.mp4"], "labels": nothing, "caption": nothing, "split": nothing}
    pq.write_table(pa.table(table), tmp_path / "manifest.parquet")
    assert [(s.labels, s.caption) for s in listing("manifest", tmp_path).sources] == [((), "")]
    with pytest.raises(DatasetError, match="^split = 'test': .*there are: none"):
        listing("manifest", tmp_path, split="test")
    pq.write_table(pa.table({"path": [""], "start": ["0.5"]}), tmp_path / "manifest.parquet")
    with pytest.raises(DatasetError, match="manifest has no source .*1 rows without a usable path"):
        listing("manifest", tmp_path)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_an_unknown_split_and_a_missing_root_are_sentences(name, tmp_path):
    (tmp_path / "manifest.csv").write_text("path,split\na.mp4,train\n")
    with pytest.raises(DatasetError, match="^split = 'nonsense': .* no such split"):
        listing(name, tmp_path, split="nonsense")
    with pytest.raises(DatasetError, match="Expected"):
        default_root(name, {"AVPREP_DATA": str(tmp_path / "nowhere")})
    with pytest.raises(DatasetError, match="Expected"):
        default_root(name, {})
    (tmp_path / name).mkdir()
    assert default_root(name, {"AVPREP_DATA": str(tmp_path)}) == tmp_path / name
