"""Where an output lies: a local folder or anything pyarrow.fs opens. A file appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import pyarrow as pa
from pyarrow import fs

from avprep.shards.layout import ShardError


class Store(Protocol):
    """Files by '/'-separated names under one root."""

    uri: str

    def write(self, name: str):
        """A context manager that gives a binary file; the file appears under `name` when it ends well."""

    def open(self, name: str) -> BinaryIO:
        """The file for reading. Raises FileNotFoundError."""

    def exists(self, name: str) -> bool: ...

    def names(self, folder: str) -> list[str]:
        """The finished files of a folder, sorted; [] where there is no such folder."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of each finished file of a folder, by name; {} where there is no such folder."""

    def remove(self, name: str) -> None: ...


def is_remote(uri: str) -> bool:
    """Whether pyarrow.fs opens it, and not this machine's file system."""
    return "://" in uri


def open_store(uri: str | os.PathLike[str]) -> Store:
    """A local folder, or a URI such as s3://bucket/path (credentials as pyarrow.fs finds them)."""
    uri = os.fspath(uri)
    return ArrowStore(uri) if is_remote(uri) else LocalStore(uri)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at `path` when it ends well: written under a temporary name, fsynced, renamed.

    Otherwise what stands at `path` is kept. `LocalStore.sweep` removes what a killed process leaves.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync_folder(path.parent)


class LocalStore:
    """A folder that is there already; files are written as `whole_file` does."""

    def __init__(self, root: str) -> None:
        self.uri = os.path.abspath(root)
        self.root = Path(self.uri)

    @contextmanager
    def write(self, name: str) -> Iterator[BinaryIO]:
        path = self.root / name
        if path.parent != self.root:  # the root itself is never made anew: it may have been unmounted
            path.parent.mkdir(exist_ok=True)
        with whole_file(path) as file:
            yield file

    def open(self, name: str) -> BinaryIO:
        return open(self.root / name, "rb")

    def exists(self, name: str) -> bool:
        return (self.root / name).is_file()

    def names(self, folder: str) -> list[str]:
        path = self.root / folder
        if not path.is_dir():
            return []
        return sorted(f"{folder}/{entry.name}" for entry in os.scandir(path) if entry.name[0] != ".")

    def sizes(self, folder: str) -> dict[str, int]:
        return {name: (self.root / name).stat().st_size for name in self.names(folder)}

    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Removes the temporary files that a killed run left; the caller holds the output's lock."""
        for path in self.root.rglob(".*.tmp"):
            path.unlink(missing_ok=True)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class ArrowStore:
    """An object store or HDFS by URI: an object appears when its upload is closed."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        try:
            self._fs, self._root = fs.FileSystem.from_uri(uri)
        except pa.ArrowInvalid as error:
            raise ShardError(f"{uri} is no place that pyarrow.fs knows: {error}") from error

    @contextmanager
    def write(self, name: str) -> Iterator[BinaryIO]:
        path = f"{self._root}/{name}"
        self._fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
        temporary = f"{path}.{os.getpid()}.tmp"
        try:
            with self._fs.open_output_stream(temporary) as file:
                yield file
        except BaseException:
            if self._fs.get_file_info(temporary).type != fs.FileType.NotFound:
                self._fs.delete_file(temporary)
            raise
        self._fs.move(temporary, path)

    def open(self, name: str) -> BinaryIO:
        return self._fs.open_input_file(f"{self._root}/{name}")

    def exists(self, name: str) -> bool:
        return self._fs.get_file_info(f"{self._root}/{name}").type == fs.FileType.File

    def names(self, folder: str) -> list[str]:
        return sorted(self.sizes(folder))

    def sizes(self, folder: str) -> dict[str, int]:
        found = self._fs.get_file_info(fs.FileSelector(f"{self._root}/{folder}", allow_not_found=True))
        return {
            f"{folder}/{info.base_name}": info.size or 0  # None of a folder
            for info in found
            if not info.base_name.endswith(".tmp")
        }

    def remove(self, name: str) -> None:
        if self.exists(name):
            self._fs.delete_file(f"{self._root}/{name}")
