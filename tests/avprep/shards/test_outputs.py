"""Several outputs as one, and selections of them: exactly those clips, in any reader; else a message."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

import avprep
from avprep.errors import ArgumentError
from avprep.shards.latents import EncoderHeader
from avprep.shards.layout import ShardError, read_header
from avprep.shards.ledger import read_ledger, write_ledger
from avprep.shards.store import open_store
from avprep.shards.writer import write_header
from avprep.spec import ClipSpec
from tests.avmodel.made_latents import write_latents
from tests.fake_encoder import fake_header
from tests.made_clips import TINY, write_clips
from tests.made_selection import write_keys


@pytest.fixture
def a(tmp_path) -> Path:
    """12 clips in shards of 5, 5, 2."""
    return write_clips(tmp_path / "a")


@pytest.fixture
def b(tmp_path) -> Path:
    """6 clips of other sources in shards of 5 and 1."""
    return write_clips(tmp_path / "b", first_source=10, sources=2, codec="jpeg")


def rewrite_header(out: Path, **entries: object) -> None:
    store = open_store(out)
    write_header(store, read_header(store) | entries)


def keys_of_stream(*told, **named) -> list[str]:
    return [sample["__key__"] for sample in avprep.web_dataset(*told, **named)]


# --- several outputs ---------------------------------------------------------------------------------------


def test_several_outputs_are_the_clips_of_one_after_those_of_the_other(a, b):
    both, alone = avprep.ClipDataset([a, b]), [avprep.ClipDataset(out) for out in (a, b)]
    assert both.keys == alone[0].keys + alone[1].keys
    for position in (0, 11, 12, 17):
        expected = alone[position // 12][position % 12]
        item = both[position]
        assert item["key"] == expected["key"] and item["json"] == expected["json"]
        assert np.array_equal(item["frames"], expected["frames"])
        assert np.array_equal(item["mel"], expected["mel"])
    assert both.by_key(alone[1].keys[3])["key"] == alone[1].keys[3]
    assert keys_of_stream([a, b]) == list(both.keys)
    assert sorted(islice(both.order(seed=0), 18)) == list(range(18))


def test_one_output_in_a_list_is_that_output(a):
    assert list(islice(avprep.ClipDataset([a]).order(seed=2), 40)) == list(
        islice(avprep.ClipDataset(a).order(seed=2), 40)
    )


def test_a_damaged_clip_names_its_output(a, b):
    data = avprep.ClipDataset([a, b])
    shard = b / "shards" / "clips-000000.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(ShardError, match=f"{b}/shards/clips-000000.tar has changed"):
        data[12]


def test_an_order_with_shares_goes_on_at_any_place(a, b):
    data = avprep.ClipDataset([a, b], shares=[3, 7], fields=["json"])
    row = list(islice(data.order(seed=1), 1000))
    assert sum(position < 12 for position in row) == pytest.approx(300, abs=45)
    assert list(islice(data.order(seed=1, position=400), 600)) == row[400:]
    assert list(islice(data.order(seed=1, epoch=2, position=3), 10)) == row[39:49]
    assert row[:40] != list(islice(avprep.ClipDataset([a, b]).order(seed=1), 40))


def test_equal_keys_are_refused_with_both_outputs(a, tmp_path):
    other = write_clips(tmp_path / "other", seed=1, first_source=3)
    for read in (avprep.ClipDataset, avprep.web_dataset):
        with pytest.raises(ShardError, match=f"{a} and {other} both hold a clip of the key .* the same path"):
            read([a, other])


@pytest.mark.parametrize("spelled", ["{}", "{}/", "{}/../a"])
def test_an_output_that_is_named_twice_is_refused(a, spelled):
    with pytest.raises(ArgumentError, match=f"^out = {a}: the same output is named 2 times"):
        avprep.ClipDataset([a, spelled.format(a)])


def test_no_output_is_refused():
    with pytest.raises(ArgumentError, match="^out must name at least one output"):
        avprep.ClipDataset([])


def test_outputs_of_another_spec_are_refused_by_the_field(a, tmp_path):
    spec = ClipSpec(frames=4, size=32, n_mels=16, n_fft=256)
    other = write_clips(tmp_path / "other", spec=spec, first_source=10)
    with pytest.raises(ShardError, match=f"{other} and {a} do not go together: the first has size = 32"):
        avprep.ClipDataset([a, other])


def test_clips_and_latents_do_not_mix(a, tmp_path):
    latents = write_latents(tmp_path / "latents", fake_header(TINY))
    with pytest.raises(ShardError, match=f"{a} holds clips, and {latents} latents"):
        avprep.web_dataset([a, latents])


def test_latents_of_another_checkpoint_are_refused_by_the_field(tmp_path):
    header = fake_header(TINY)
    first = write_latents(tmp_path / "first", header)
    same = write_latents(tmp_path / "same", header, first=100, packed=True)
    data = avprep.LatentDataset([first, same])
    assert len(data) == 48 and data[30]["latent"].shape == header.shape
    other = EncoderHeader(**{**vars(header), "weights": "f" * 64})
    second = write_latents(tmp_path / "second", other, first=100)
    with pytest.raises(
        ShardError, match=f"{second} and {first} do not go together: the first has weights = fff"
    ):
        avprep.LatentDataset([first, second])


def test_shares_of_an_output_without_clips_are_refused(a, b):
    data = avprep.ClipDataset([a, b], shares=[1, 1]).subset(np.arange(12))
    with pytest.raises(ShardError, match=f"{b} has a share, and no clip to train on"):
        data.clip_order(0)


# --- selections ---------------------------------------------


def test_exactly_the_selected_clips_are_read(a):
    keys = avprep.ClipDataset(a).keys
    wanted = [keys[11], keys[0], keys[7]]
    digest = write_keys(a, wanted)
    data = avprep.ClipDataset(a, select="some")
    assert data.keys == (keys[0], keys[7], keys[11])
    assert [item["key"] for item in data] == list(data.keys)
    assert data.selections == (digest,)
    assert keys_of_stream(a, select="some") == list(data.keys)
    assert sorted(islice(data.order(seed=0), 3)) == [0, 1, 2]
    assert avprep.ClipDataset(a).selections == ()


def test_shards_without_a_selected_clip_are_left_out_and_the_others_found(a):
    """Paths are numbered anew."""
    keys = avprep.ClipDataset(a).keys
    write_keys(a, keys[10:])
    data = avprep.ClipDataset(a, select="some")
    assert [Path(path).name for path in data.index.paths] == ["clips-000002.tar"]
    assert [item["key"] for item in data] == list(keys[10:])


def test_each_of_several_outputs_has_its_selection(a, b):
    wanted = [avprep.ClipDataset(out).keys[1:3] for out in (a, b)]
    digests = [write_keys(out, keys) for out, keys in zip((a, b), wanted, strict=True)]
    data = avprep.ClipDataset([a, b], select="some")
    assert data.keys == wanted[0] + wanted[1] and data.selections == tuple(digests)
    loader = DataLoader(
        avprep.web_dataset([a, b], select="some", fields=["mel"]), batch_size=None, num_workers=2
    )
    assert sorted(sample["__key__"] for sample in loader) == sorted(data.keys)


def test_latents_take_the_selection_of_their_clips(tmp_path):
    """Looked up beside the latents first, then in the clips that spec.json names."""
    latents = write_latents(tmp_path / "latents", fake_header(TINY))
    keys = avprep.LatentDataset(latents).keys
    clips = tmp_path / "clips"
    clips.mkdir()
    write_header(open_store(clips), {"fingerprint": "theirs"})
    digest = write_keys(clips, keys[3:9])
    rewrite_header(latents, root=str(clips), clips={"fingerprint": "theirs"})
    data = avprep.LatentDataset(latents, select="some")
    assert data.keys == keys[3:9] and data.selections == (digest,)

    (latents / "selections").mkdir()
    shutil.move(clips / "selections" / "some.parquet", latents / "selections")
    shutil.rmtree(clips)
    assert avprep.LatentDataset(latents, select="some").keys == keys[3:9]


def test_a_header_from_elsewhere_reaches_for_no_other_machine(tmp_path):
    latents = write_latents(tmp_path / "latents", fake_header(TINY))
    rewrite_header(latents, root="s3://elsewhere/clips", clips={"fingerprint": "theirs"})
    with pytest.raises(ShardError, match=f"no selections/some.parquet in {latents}$"):
        avprep.LatentDataset(latents, select="some")


def test_a_selection_that_is_not_there_is_named_with_where_it_was_looked_for(a):
    with pytest.raises(ShardError, match=f"there is no selection hq: no selections/hq.parquet in {a}"):
        avprep.ClipDataset(a, select="hq")
    with pytest.raises(ArgumentError, match="^name must be of up to 64 letters"):
        avprep.ClipDataset(a, select="../hq")


def test_a_selection_of_other_clips_is_refused(a):
    write_keys(a, avprep.ClipDataset(a).keys[:2], fingerprint="another")
    with pytest.raises(
        ShardError, match="was made of other clips than those of .*fingerprint another, not made"
    ):
        avprep.ClipDataset(a, select="some")


def test_selected_clips_that_are_not_finished_are_refused(a):
    write_keys(a, avprep.ClipDataset(a).keys)
    (a / "ledger" / "000001.parquet").unlink()
    with pytest.raises(ShardError, match=f"{a} lacks 5 clips of selection some, such as "):
        avprep.ClipDataset(a, select="some")


def test_a_selected_clip_that_failed_is_accounted_for_by_the_ledger(a):
    """As a latent may be missing because its encoder gave NaN."""
    store, keys = open_store(a), avprep.ClipDataset(a).keys
    write_keys(a, keys)
    rows, record = read_ledger(store, 2)
    lost = [row for row in rows if row.key == keys[-1]]
    write_ledger(store, 3, lost, type(record)("", "", 0, record.fingerprint))
    index = avprep.ClipDataset(a).index
    write_keys(a, [*keys, "failed"])
    with pytest.raises(ShardError, match="lacks 1 clips of selection some, such as failed"):
        avprep.ClipDataset(a, select="some")
    write_ledger(
        store,
        3,
        [type(lost[0])(key="failed", shard=3, source="x", start_s=0, status="failed", reason="not_finite")],
        type(record)("", "", 0, record.fingerprint),
    )
    assert avprep.ClipDataset(a, select="some").keys == index.keys


def test_a_selection_without_one_clip_of_the_output_is_refused(a):
    write_keys(a, [])
    with pytest.raises(ShardError, match=f"{a} holds no clip of selection some"):
        avprep.ClipDataset(a, select="some")


def test_damage_that_is_left_out_leaves_the_rest_of_the_selection(a):
    keys = avprep.ClipDataset(a).keys
    write_keys(a, keys[4:6])
    (a / "shards" / "clips-000001.tar").unlink()
    data = avprep.ClipDataset(a, select="some", on_damage="skip")
    assert data.keys == keys[4:5] and len(data.index.left_out) == 1


# --- damage in a stream ---------------------------------------------


def flip_text(out: Path, number: int = 1) -> None:
    """Changes a byte of a shard that every clip of it decodes without: a source's name."""
    path = out / "shards" / f"clips-{number:06d}.tar"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"source": "source', b'"source": "sourcf', 1))
    assert path.read_bytes() != data


def test_a_stream_ends_at_a_shard_whose_bytes_are_not_those_written(a):
    flip_text(a)
    seen: list[str] = []
    with pytest.raises(ShardError, match=r"clips-000001.tar: its bytes are not those written"):
        seen += [sample["__key__"] for sample in avprep.web_dataset(a)]
    stream, got = iter(avprep.web_dataset(a, fields=["json"])), []
    with pytest.raises(ShardError, match="its bytes are not those written"):
        while True:
            got.append(next(stream)["__key__"])
    assert got == list(avprep.ClipDataset(a).keys[:10])


def test_a_stream_leaves_damaged_shards_out_where_that_is_asked_for(a):
    keys = avprep.ClipDataset(a).keys
    flip_text(a)
    data = avprep.web_dataset(a, on_damage="skip")
    assert len(data.left_out) == 1 and "clips-000001.tar" in data.left_out[0]
    assert [sample["__key__"] for sample in data] == list(keys[:5] + keys[10:])
    assert avprep.web_dataset(a).left_out == ()
    with pytest.raises(ArgumentError, match="^on_damage must be one of end, skip, not 'stop'"):
        avprep.web_dataset(a, on_damage="stop")


def test_headers_are_what_they_were(a):
    """Reading writes nothing."""
    before = {path: path.read_bytes() for path in a.rglob("*") if path.is_file()}
    avprep.ClipDataset(a)[0]
    list(avprep.web_dataset(a))
    assert {path: path.read_bytes() for path in a.rglob("*") if path.is_file()} == before
    assert json.loads((a / "spec.json").read_bytes())["fingerprint"].startswith("made-")
