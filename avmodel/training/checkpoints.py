"""Checkpoint files: written whole or not at all, and read as hostile input.

A checkpoint is what `torch.save` writes of dicts, lists, tensors, numbers and text. Reading one runs no code,
takes no more memory than the file has bytes, and ends in a CheckpointError for whatever is wrong with it:

    load_checkpoint     the file is a whole checkpoint, of dense tensors that the file itself holds
    entry               it has the entry, of the type that belongs there
    build_model         the weights are those of the config's model; compared before the model takes memory
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar, cast

import torch
from torch import Tensor, nn

from avmodel.training.errors import CheckpointError, TrainingError
from avmodel.training.log import naming
from avprep.shards.whole import whole_file

_MOST_NAMES = 3  # of tensors in a message
Model = TypeVar("Model", bound=nn.Module)


def save_checkpoint(path: Path, payload: dict[str, Any]) -> None:
    """Writes `payload` (tensors, numbers, text, dicts and lists of them) whole or not at all.

    Raises:
        TrainingError: a tensor holds NaN or Inf; the file that was at `path` stays.
        OSError: it cannot be written (a full disk); the file that was at `path` stays.
    """
    for name, tensor in _tensors(payload):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise TrainingError(f"{path}: {name} holds NaN or Inf; the checkpoint before it is kept")
    with naming(path), whole_file(path) as file:
        output = _Output(file)
        try:
            torch.save(payload, cast(IO[bytes], output))
        except RuntimeError as error:
            raise (output.error or error) from None


def load_checkpoint(path: str | Path, kind: str) -> dict[str, Any]:
    """A checkpoint of `kind` (its 'kind' entry), on the CPU. Its tensors are mapped from the file.

    Raises:
        CheckpointError: not there, cut off, no checkpoint, one of another kind, or tensors that the file does
            not hold.
    """
    path = Path(path)
    size = _check_archive(path)
    try:
        # Mapped, not read: nothing takes memory before the tensors are checked.
        payload = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged file makes torch.load raise any of a dozen kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if reason.startswith("Weights only load failed"):  # torch goes on to advise running the file's code
            reason = "it is damaged, or holds more than tensors, numbers and text"
        raise CheckpointError(f"{path} is cut off or no checkpoint ({reason})") from error
    found = payload.get("kind") if isinstance(payload, dict) else None
    if found != kind:
        raise CheckpointError(f"{path} is a checkpoint of {str(found)[:40]!r}, not of {kind!r}")
    _check_tensors(payload, size, path)
    return payload


def entry(payload: dict[str, Any], name: str, kind: type, path: str | Path) -> Any:
    """The entry of a checkpoint. Raises CheckpointError if it is missing or of another type than `kind`."""
    if name not in payload:
        raise CheckpointError(f"{path} has no entry {name!r}: it is not a checkpoint of this version")
    value = payload[name]
    is_count = type(value) is int and value >= 0
    if not isinstance(value, kind) or (kind is int and not is_count):
        raise CheckpointError(f"{path}: its entry {name!r} is {type(value).__name__}, not {kind.__name__}")
    return value


def build_model(make: Callable[[], Model], weights: dict[str, Tensor], path: str | Path) -> Model:
    """The model that `make` returns, with a checkpoint's weights, on the CPU.

    It is made on the meta device first: a config that asks for terabytes is refused before it gets them.

    Raises:
        CheckpointError: the weights are not those of the model.
    """
    with torch.device("meta"):
        check_weights(make().state_dict(), weights, path)
    model = make()
    model.load_state_dict(weights)
    return model


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    """Raises CheckpointError if the weights are not those of the model."""
    check_weights(model.state_dict(), weights, path)
    model.load_state_dict(weights)


def check_weights(expected: dict[str, Tensor], found: dict[str, Tensor], path: str | Path) -> None:
    """Raises CheckpointError unless both have the same names, shapes and types, and all values are finite."""
    wrong = list(_differences(expected, found))
    if not wrong:
        bad = (name for name, t in found.items() if t.is_floating_point() and not torch.isfinite(t).all())
        wrong = [f"{name} holds NaN or Inf" for name in bad]
    if wrong:
        more = f" and {len(wrong) - _MOST_NAMES} more" if len(wrong) > _MOST_NAMES else ""
        first = "; ".join(wrong[:_MOST_NAMES])
        raise CheckpointError(f"{path}: its weights are not those of its config: {first}{more}")


def _differences(expected: dict[str, Tensor], found: dict[str, Tensor]) -> Iterator[str]:
    yield from (f"{name} is missing" for name in expected if name not in found)
    yield from (f"{name} is none of its" for name in found if name not in expected)
    for name, tensor in expected.items():
        if name in found and _shape_of(found[name]) != _shape_of(tensor):
            yield f"{name} is {_shape_of(found[name])}, not {_shape_of(tensor)}"


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], path: Path) -> None:
    """Loads an optimizer's averages. Its rates and flags stay those of this run's config and machine.

    Raises:
        CheckpointError: the averages are not of the optimizer's parameters.
    """
    own = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    averages = entry(state, "state", dict, path)
    for number, of_parameter in averages.items():
        fits = isinstance(number, int) and number < len(parameters) and isinstance(of_parameter, dict)
        shapes = {tuple(t.shape) for t in of_parameter.values() if isinstance(t, Tensor)} if fits else set()
        if not fits or not shapes <= {(), tuple(parameters[number].shape)}:
            raise CheckpointError(f"{path}: its optimizer's averages are not those of the model's parameters")
    optimizer.load_state_dict({"state": averages, "param_groups": own["param_groups"]})


class _Output:
    """The file that torch.save writes to. It keeps the error of a failed write, of which torch.save makes a
    RuntimeError that does not say what failed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _check_archive(path: Path) -> int:
    """The size of a file that `torch.save` may have written, bytes.

    Refused: the old format, in which a number in the file decides how much memory is taken, and compressed
    records, which may be a thousand times larger than the file.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the checkpoint (.pt) in it")
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is cut off or no checkpoint ({error})") from error
    is_stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
    if not is_stored or sum(record.file_size for record in records) > size:
        raise CheckpointError(f"{path} is no checkpoint: its records are larger than the file")
    return size


def _check_tensors(payload: dict[str, Any], size: int, path: Path) -> None:
    """Raises CheckpointError unless the tensors are plain and no larger than the file, all together."""
    total = 0
    for name, tensor in _tensors(payload):
        is_plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
        if not is_plain or tensor.is_quantized or tensor.device.type != "cpu":
            raise CheckpointError(f"{path}: {name} is not a dense tensor of numbers")
        total += tensor.numel() * tensor.element_size()
        if total > size:
            raise CheckpointError(
                f"{path}: {name} {_shape_of(tensor)} asks for more memory than the file's {size:,} bytes"
            )


def _tensors(payload: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of every tensor. A container that is held twice, or holds itself, is walked once."""
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", payload)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [(f"{name}.{str(key)[:80]}".lstrip("."), item) for key, item in items]


def _shape_of(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
