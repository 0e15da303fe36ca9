from __future__ import annotations

import errno
import io
import resource
import signal
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from avmodel.training import checkpoints as module
from avmodel.training.checkpoints import (
    build_model,
    entry,
    load_checkpoint,
    load_optimizer,
    save_checkpoint,
)
from avmodel.training.errors import CheckpointError, TrainingError

TOP = Path(module.__file__).parents[2]


def test_a_checkpoint_comes_back(tmp_path):
    payload = {"kind": "x", "step": 3, "weights": {"a": torch.arange(4.0)}, "names": ["b", 1]}
    save_checkpoint(tmp_path / "x.pt", payload)
    back = load_checkpoint(tmp_path / "x.pt", "x")
    assert back["step"] == 3 and back["names"] == ["b", 1]
    assert torch.equal(back["weights"]["a"], payload["weights"]["a"])
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


def test_a_loaded_checkpoint_outlives_its_file(tmp_path):
    """Its tensors are mapped: the next checkpoint must not be written over them."""
    save_checkpoint(tmp_path / "x.pt", {"kind": "x", "a": torch.ones(1000)})
    back = load_checkpoint(tmp_path / "x.pt", "x")
    save_checkpoint(tmp_path / "x.pt", {"kind": "x", "a": torch.zeros(1000)})
    assert back["a"].eq(1).all() and load_checkpoint(tmp_path / "x.pt", "x")["a"].eq(0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_number_leaves_the_old_checkpoint(tmp_path, bad):
    save_checkpoint(tmp_path / "x.pt", {"kind": "x", "a": torch.ones(2)})
    with pytest.raises(TrainingError, match="state.0.b holds NaN or Inf"):
        save_checkpoint(tmp_path / "x.pt", {"kind": "x", "state": [{"b": torch.tensor([1.0, bad])}]})
    assert torch.equal(load_checkpoint(tmp_path / "x.pt", "x")["a"], torch.ones(2))


@pytest.mark.parametrize("room", [0, 3000, 100_000])
def test_a_full_disk_names_the_file_and_leaves_the_old_checkpoint(tmp_path, room):
    """The limit on a file's size stands for the disk's: the write fails in the middle of a record."""
    save_checkpoint(tmp_path / "x.pt", {"kind": "x", "a": torch.ones(2)})
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            save_checkpoint(tmp_path / "x.pt", {"kind": "x", "a": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(tmp_path / "x.pt")
    assert torch.equal(load_checkpoint(tmp_path / "x.pt", "x")["a"], torch.ones(2))
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.parametrize("keep", [0, 10, 200, 900])
def test_a_file_that_is_cut_off_is_refused(tmp_path, keep):
    save_checkpoint(tmp_path / "x.pt", {"kind": "x", "a": torch.ones(100)})
    whole = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(whole[:keep])
    with pytest.raises(CheckpointError, match="x.pt is cut off or no checkpoint"):
        load_checkpoint(tmp_path / "x.pt", "x")


def test_a_checkpoint_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    torch.save({"kind": "x", "a": Evil()}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="more than tensors, numbers and text"):
        load_checkpoint(tmp_path / "x.pt", "x")
    assert not (tmp_path / "touched").exists()


def test_another_kind_and_no_file_are_refused(tmp_path):
    save_checkpoint(tmp_path / "x.pt", {"kind": "dit"})
    with pytest.raises(CheckpointError, match="a checkpoint of 'dit', not of 'mdsa'"):
        load_checkpoint(tmp_path / "x.pt", "mdsa")
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_checkpoint(tmp_path / "y.pt", "mdsa")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_checkpoint(tmp_path, "mdsa")


# --- tensors that ask for more than the file holds ---

TERABYTES = 10**12


def in_itself() -> dict:
    payload: dict = {"kind": "x"}
    payload["again"] = [payload, {"more": payload}]
    return payload


def doubling() -> dict:
    value: list = [1]
    for _ in range(60):
        value = [value, value]
    return {"kind": "x", "a": value}


HOSTILE_TENSORS = {
    "stride 0": lambda: torch.ones(1).expand(TERABYTES),
    "overlapping rows": lambda: torch.ones(2000).as_strided((1000, 1000), (1, 1)),
    "sparse": lambda: torch.sparse_coo_tensor([[0]], [1.0], (TERABYTES,)),
    "sparse rows": lambda: torch.sparse_csr_tensor([0, 1], [0], [1.0], size=(1, TERABYTES)),
    "without memory": lambda: torch.empty(TERABYTES, device="meta"),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", HOSTILE_TENSORS.values(), ids=HOSTILE_TENSORS.keys())
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_the_file_does_not_hold_are_refused(tmp_path, make):
    torch.save({"kind": "x", "weights": {"w": make()}}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="x.pt"):
        load_checkpoint(tmp_path / "x.pt", "x")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [in_itself, doubling])
def test_containers_that_hold_themselves_end(tmp_path, make):
    torch.save(make(), tmp_path / "x.pt")
    assert load_checkpoint(tmp_path / "x.pt", "x")["kind"] == "x"


def rewritten(path: Path, compression: int, first: bytes = b"", **records: bytes) -> None:
    """The archive with some records replaced, by the end of their name, and an unused one before them."""
    data = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(data) as before, zipfile.ZipFile(path, "w", compression) as after:
        folder = before.infolist()[0].filename.split("/")[0]
        after.writestr(f"{folder}/unused", first)
        for info in before.infolist():
            name = info.filename.rsplit("/", 1)[-1]
            after.writestr(info.filename, records.get(name, before.read(info)))


@pytest.mark.timeout(60)
def test_compressed_records_and_the_old_format_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"kind": "x", "a": torch.zeros(1_000_000)}, path)
    rewritten(path, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="larger than the file"):
        load_checkpoint(path, "x")
    torch.save({"kind": "x", "a": torch.zeros(4)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_checkpoint(path, "x")


@pytest.mark.timeout(60)
def test_a_record_shorter_than_its_tensor_is_not_read_beyond_the_file(tmp_path):
    """The file is large enough for the tensor; the record, at its end, is not."""
    path = tmp_path / "x.pt"
    torch.save({"kind": "x", "a": torch.zeros(1_000_000)}, path)
    rewritten(path, zipfile.ZIP_STORED, bytes(8_000_000), **{"0": b"short"})
    with pytest.raises(CheckpointError, match="cut off or no checkpoint"):
        load_checkpoint(path, "x")


# --- entries, weights, optimizers ---


@pytest.mark.parametrize(
    ("payload", "message"),
    [({}, "has no entry 'step'"), ({"step": "3"}, "is str, not int"), ({"step": True}, "is bool, not int")],
)
def test_an_entry_is_there_and_of_its_type(payload, message):
    with pytest.raises(CheckpointError, match=message):
        entry(payload, "step", int, "x.pt")
    with pytest.raises(CheckpointError, match="'step' is int, not int"):
        entry({"step": -1}, "step", int, "x.pt")  # a count


def linear() -> nn.Linear:
    return nn.Linear(2, 3)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"weight": torch.ones(3, 2)}, "bias is missing"),
        ({"weight": torch.ones(3, 2), "bias": torch.ones(3), "odd": torch.ones(1)}, "odd is none of its"),
        (
            {"weight": torch.ones(2, 3), "bias": torch.ones(3)},
            r"weight is float32 \(2, 3\), not float32 \(3, 2\)",
        ),
        ({"weight": torch.ones(3, 2).long(), "bias": torch.ones(3)}, "weight is int64"),
        ({"weight": "text", "bias": torch.ones(3)}, "weight is str"),
        ({"weight": torch.full((3, 2), torch.nan), "bias": torch.ones(3)}, "weight holds NaN or Inf"),
    ],
)
def test_weights_that_are_not_of_the_model_are_named(weights, message):
    with pytest.raises(CheckpointError, match=message):
        build_model(linear, weights, "x.pt")


def test_a_model_is_not_built_for_weights_that_are_not_its_own():
    """1.6 TB: it would not fit."""
    with pytest.raises(CheckpointError, match="weight is missing"):
        build_model(lambda: nn.Linear(10**9, 400), {}, "x.pt")


def test_a_model_of_its_weights_is_built():
    weights = {"weight": torch.arange(6.0).reshape(3, 2), "bias": torch.ones(3)}
    assert torch.equal(build_model(linear, weights, "x.pt").weight, weights["weight"])


def trained_optimizer() -> tuple[nn.Module, torch.optim.Adam]:
    model = linear()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_an_optimizer_takes_the_averages_and_keeps_its_own_rates(tmp_path):
    _, trained = trained_optimizer()
    state = trained.state_dict()
    state["param_groups"][0] |= {"lr": 1e9, "eps": float("nan")}
    own = torch.optim.Adam(linear().parameters(), lr=0.1)
    load_optimizer(own, state, tmp_path / "state.pt")
    assert own.param_groups[0]["lr"] == 0.1 and own.param_groups[0]["eps"] == 1e-8
    assert torch.equal(own.state_dict()["state"][0]["exp_avg"], state["state"][0]["exp_avg"])


@pytest.mark.parametrize("damage", [{0: {"exp_avg": torch.ones(7)}}, {9: {}}, {"a": {}}, {0: 3}])
def test_averages_that_are_not_of_the_parameters_are_refused(tmp_path, damage):
    with pytest.raises(CheckpointError, match="not those of the model's parameters"):
        load_optimizer(trained_optimizer()[1], {"state": damage}, tmp_path / "state.pt")
