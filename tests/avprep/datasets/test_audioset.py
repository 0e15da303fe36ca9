"""AudioSet's strong lists, ontology and label quality; sources without a file; excluded labels."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from avprep.cli import main
from avprep.datasets import list_dataset
from avprep.datasets.audioset import read_strong_rows
from avprep.datasets.audioset_classes import ancestors, class_names, strong_names
from avprep.datasets.source import DatasetError, DatasetOptions, Listing

META = Path(__file__).parents[4] / "shared" / "meta"

STRONG = """segment_id\tstart_time_seconds\tend_time_seconds\tlabel
b0RFKhbpFJA_30000\t1.000\t2.000\t/m/09x0r
b0RFKhbpFJA_30000\t3.000\t4.000\t/m/0bt9lr
b0RFKhbpFJA_30000\t0.000\t10.000\t/m/03m9d0z
b0RFKhbpFJA_30000\t5.000\t6.000\t/m/09x0r
b0RFKhbpFJA_30000\t9.000\t8.000\t/m/09x0r
-z4j8tsRGHA_0\t0.068\t4.250\t/g/122z_qxw
too_short_0\t0.0\t1.0\t/m/09x0r
"""
WEAK = """# YTID, start_seconds, end_seconds, positive_labels
--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/m/0bt9lr"
abcdefghij0, 0.000, 10.000, "/m/0bt9lr"
deletedvid0, 0.500, 10.000, "/m/09x0r"
"""
# Dog is a domestic animal, that is an animal; the abstract class above them is none of the 527.
ONTOLOGY = [
    {"id": "/m/none", "name": "Everything", "child_ids": ["/m/0jbk"]},
    {"id": "/m/0jbk", "name": "Animal", "child_ids": ["/m/068hy"]},
    {"id": "/m/068hy", "name": "Domestic animals, pets", "child_ids": ["/m/0bt9lr"]},
    {"id": "/m/0bt9lr", "name": "Dog", "child_ids": []},
]


def made(root: Path, *files: str, **texts: str) -> Path:
    for name in files:
        (root / name).touch()
    for name, text in texts.items():
        stem, _, suffix = name.rpartition("_")
        (root / f"{stem}.{suffix}").write_text(text)
    return root


def listing(root: Path, **options) -> Listing:
    return list_dataset("audioset", DatasetOptions(root=root, **options))


@pytest.fixture
def weak(tmp_path) -> Path:
    """Two of three listed segments have a file."""
    ontology = json.dumps(ONTOLOGY)
    return made(
        tmp_path,
        "--PJHxphWEs.mp4",
        "abcdefghij0_0_10.mp4",
        balanced_train_segments_csv=WEAK,
        ontology_json=ontology,
    )


def test_strong_labels_are_those_of_a_segment_s_events_in_the_order_of_their_onsets(tmp_path):
    names = "/g/122z_qxw\tFirecracker\n/m/03m9d0z\tWind\n"
    made(
        tmp_path,
        "b0RFKhbpFJA_30_40.mp4",
        "-z4j8tsRGHA.mp4",
        audioset_train_strong_tsv=STRONG,
        mid_to_display_name_tsv=names,
    )
    found = listing(tmp_path, split="strong")
    assert {s.path: s.labels for s in found.sources} == {
        "b0RFKhbpFJA_30_40.mp4": ("Wind", "Speech", "Dog"),
        "-z4j8tsRGHA.mp4": ("Firecracker",),
    }
    whole = next(s for s in found.sources if s.maybe_trimmed)
    assert (whole.start_s, whole.stop_s) == (0.0, 10.0)
    assert found.notes["rows that cannot be read"] == 2


def strong(root: Path, **options) -> dict[str, list[tuple[float, float, tuple[str, ...]]]]:
    made(
        root,
        "b0RFKhbpFJA_30_40.mp4",
        "-z4j8tsRGHA.mp4",
        audioset_train_strong_tsv=STRONG,
        ontology_json=json.dumps(ONTOLOGY),
        qa_true_counts_csv="label_id,num_rated,num_true\n/m/09x0r,10,9\n/m/0bt9lr,10,5\n",
    )
    found = listing(root, split="strong", **options).sources
    return {source.path[:2]: [tuple(event) for event in source.events] for source in found}


def test_events_are_listed_in_time_where_they_are_asked_for(tmp_path):
    assert strong(tmp_path, at_events=True) == {
        "b0": [
            (0.0, 10.0, ("Wind",)),
            (1.0, 2.0, ("Speech",)),
            (3.0, 4.0, ("Dog",)),
            (5.0, 6.0, ("Speech",)),
        ],
        "-z": [(0.068, 4.25, ("Firecracker",))],
    }
    assert strong(tmp_path) == {"b0": [], "-z": []}


def test_events_have_what_their_label_is_a_kind_of_and_none_of_low_quality(tmp_path):
    found = strong(tmp_path, at_events=True, with_ancestors=True, min_label_quality=0.5)
    higher = ("Domestic animals, pets", "Animal")
    assert found == {"b0": [(1.0, 2.0, ("Speech",)), (3.0, 4.0, ("Dog", *higher)), (5.0, 6.0, ("Speech",))]}


@pytest.mark.parametrize("split", ["balanced_train", None])
def test_weak_lists_have_no_events(weak, split):
    with pytest.raises(DatasetError, match=f"^at_events = True: the labels of split={split} have no times"):
        listing(weak, split=split, at_events=True)


def test_a_strong_list_is_known_by_its_suffix_and_is_not_part_of_the_weak_splits(tmp_path):
    made(tmp_path, "b0RFKhbpFJA_30_40.mp4", audioset_train_strong_tsv=STRONG, eval_segments_csv=WEAK)
    given = listing(tmp_path, list_file=tmp_path / "audioset_train_strong.tsv")
    assert [s.path for s in given.sources] == ["b0RFKhbpFJA_30_40.mp4"]
    with pytest.raises(DatasetError, match="no source"):
        listing(tmp_path)


def test_absent_labels_of_a_framed_list_are_no_events(tmp_path):
    (tmp_path / "framed.tsv").write_text(
        "b0RFKhbpFJA_30000\t0.000\t0.960\t/m/09x0r\tPRESENT\n"
        "b0RFKhbpFJA_30000\t0.000\t0.960\t/m/0bt9lr\tNOT_PRESENT\n"
        "b0RFKhbpFJA_30000\t1.920\t2.880\t/m/09x0r\tPRESENT\n"
        "b0RFKhbpFJA_30000\t0.960\t1.920\t/m/09x0r\tPRESENT\n"
        "b0RFKhbpFJA_30000\t3.840\t4.800\t/m/09x0r\tPRESENT\n"
    )
    notes: Counter[str] = Counter()
    (row,) = read_strong_rows(tmp_path / "framed.tsv", notes)
    assert row.mids == ("/m/09x0r",) and not notes
    assert [event[:2] for event in row.events] == [(0.0, 2.88), (3.84, 4.8)]  # frames that touch are one


def test_labels_are_propagated_upwards_on_request(weak):
    assert {s.labels for s in listing(weak).sources} == {("Speech", "Dog"), ("Dog",)}
    higher = ("Domestic animals, pets", "Animal")
    found = {s.labels for s in listing(weak, with_ancestors=True).sources}
    assert found == {("Speech", "Dog", *higher), ("Dog", *higher)}


def test_an_ontology_with_a_ring_ends(tmp_path):
    ring = [{"id": "/m/0jbk", "child_ids": ["/m/068hy"]}, {"id": "/m/068hy", "child_ids": ["/m/0jbk"]}]
    (tmp_path / "ontology.json").write_text(json.dumps(ring))
    assert ancestors(tmp_path)("/m/068hy") == ("/m/0jbk",)


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "[1]", '[{"id": "x"}]', "[" * 100_000])
def test_a_damaged_ontology_is_named(weak, text: str):
    (weak / "ontology.json").write_text(text)
    with pytest.raises(DatasetError, match="ontology.json is no ontology"):
        listing(weak, with_ancestors=True)


def test_labels_of_low_quality_go_and_segments_without_another_one_too(weak):
    (weak / "qa_true_counts.csv").write_text(
        "label_id,num_rated,num_true\n/m/09x0r,10,9\n/m/0bt9lr,10,5\n/m/0jbk,0,0\n"
    )
    found = listing(weak, min_label_quality=0.8)
    assert {s.path: s.labels for s in found.sources} == {"--PJHxphWEs.mp4": ("Speech",)}
    assert found.notes["labels below min_label_quality, or never rated"] == 2
    assert found.notes["rows without a label of min_label_quality"] == 1
    assert len(listing(weak, min_label_quality=0.5).sources) == 2  # the bound is included


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,num_rated\n1,2\n", r"the columns \['id', 'num_rated'\]; it needs label_id, num_true too"),
        ("", r"the columns \[\]; it needs label_id, num_rated, num_true"),
        ("label_id,num_rated,num_true\n/m/1,10,9\n/m/2,10\n", "line 3 of .*/m/2"),
        ("label_id,num_rated,num_true\n/m/1,10,90%\n", "line 2 of .*90%"),
        (None, "there is no qa_true"),
    ],
)
def test_a_quality_table_that_is_none_is_named(weak, text: str | None, said: str):
    if text is not None:
        (weak / "qa_true_counts.csv").write_text(text)
    with pytest.raises(DatasetError, match=said):
        listing(weak, min_label_quality=0.5)


def test_sources_with_an_excluded_label_are_left_out_and_counted(weak):
    found = listing(weak, exclude_labels=("Speech",))
    assert [s.labels for s in found.sources] == [("Dog",)]
    assert found.notes["sources with a label of exclude_labels"] == 1


def test_an_excluded_class_excludes_its_kinds_where_labels_are_propagated(weak):
    with pytest.raises(DatasetError, match="2 sources with a label of exclude_labels"):
        listing(weak, exclude_labels=("Animal",), with_ancestors=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"with_ancestors": True}, "labels of folder have no ontology"),
        ({"min_label_quality": 0.5}, "labels of folder are not rated"),
        ({"at_events": True}, "labels of folder have no times"),
    ],
)
def test_other_datasets_have_no_ontology_no_ratings_and_no_events(weak, options, said):
    with pytest.raises(DatasetError, match=f"^{next(iter(options))} = .*{said}"):
        list_dataset("folder", DatasetOptions(root=weak, **options))


def test_what_has_no_file_is_listed_by_id_and_span(weak):
    assert listing(weak).missing == ["deletedvid0\t0.5\t10"]


def test_the_command_writes_the_missing_ids(weak, tmp_path_factory):
    out = tmp_path_factory.mktemp("missing")
    arguments = [
        "--dataset",
        "audioset",
        "--root",
        weak,
        "--missing",
        out / "missing.tsv",
        "--dry-run",
        "--workers",
        0,
    ]
    result = CliRunner().invoke(main, ["clip", *map(str, arguments), "--out", str(out / "clips")])
    assert (out / "missing.tsv").read_text() == "deletedvid0\t0.5\t10\n", result.output


@pytest.mark.skipif(not META.is_dir(), reason="the published tables are not here")
def test_the_published_tables_are_read_as_they_are(tmp_path):
    names = ("audioset_ontology.json", "audioset_strong_mid_to_display_name.tsv")
    for name in names:
        (tmp_path / name).symlink_to(META / name)
    above = ancestors(tmp_path)
    by_name = {name: mid for mid, name in class_names().items()}
    assert [class_names()[mid] for mid in above(by_name["Bark"])] == [
        "Dog",
        "Domestic animals, pets",
        "Animal",
    ]
    assert above(by_name["Speech"]) == ()  # "Human sounds" is abstract, and none of the 527
    assert strong_names(tmp_path)["/g/11b630rrvh"] == "Kettle whistle"
    assert len(strong_names(tmp_path)) > 527
