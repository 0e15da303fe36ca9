"""Where an output lies: a local folder or anything pyarrow.fs opens. A file appears whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import pyarrow as pa
from pyarrow import fs

from avprep.credentials import require_no_credentials, scrubbed
from avprep.shards.layout import (
    CUTS_FOLDER,
    LEDGER_FOLDER,
    OUTPUT_FILES,
    SCORES_FOLDER,
    SELECTIONS_FOLDER,
    SHARDS_FOLDER,
    ShardError,
)
from avprep.shards.whole import is_temporary, remove_temporary, whole_file

# That files are written into.
_FOLDERS = ("", SHARDS_FOLDER, LEDGER_FOLDER, SCORES_FOLDER, SELECTIONS_FOLDER, CUTS_FOLDER)
_STALE_NS = 24 * 3600 * 10**9  # no run takes so long over one object


class Store(Protocol):
    """Files by '/'-separated names under one root."""

    uri: str

    def write(self, name: str):
        """A context manager that gives a binary file; the file appears under `name` when it ends well."""

    def open(self, name: str) -> BinaryIO:
        """The file for reading.

        Raises:
            FileNotFoundError: there is none.
            ShardError: it is no regular file.
        """

    def exists(self, name: str) -> bool: ...

    def names(self, folder: str) -> list[str]:
        """The finished files of a folder ('': the root), sorted; [] where there is no such folder."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of each finished file of a folder, by name; {} where there is no such folder."""

    def remove(self, name: str) -> None: ...

    def sweep(self) -> None:
        """Removes the temporary files that killed runs left, and no other file. The caller holds the output's
        lock, where there is one."""


def is_remote(uri: str) -> bool:
    """Whether pyarrow.fs opens it, and not this machine's file system."""
    return "://" in uri


def open_store(uri: str | os.PathLike[str]) -> Store:
    """A local folder, or a URI such as s3://bucket/path (credentials as pyarrow.fs finds them).

    Raises:
        ArgumentError: the URI holds credentials.
        ShardError: pyarrow.fs does not know such a URI.
    """
    require_no_credentials("an output's address", uri)
    uri = os.fspath(uri)
    return ArrowStore(uri) if is_remote(uri) else LocalStore(uri)


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
        path = f"{self.uri}/{name}"  # a Path takes longer to make than the file to open
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # to open a pipe would block
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ShardError(f"{path} is no regular file")
        return open(descriptor, "rb")

    def exists(self, name: str) -> bool:
        return (self.root / name).is_file()

    def names(self, folder: str) -> list[str]:
        path = self.root / folder
        if not path.is_dir():
            return []
        prefix = f"{folder}/" if folder else ""
        with os.scandir(path) as entries:
            return sorted(f"{prefix}{e.name}" for e in entries if e.name[0] != "." and e.is_file())

    def sizes(self, folder: str) -> dict[str, int]:
        return {name: (self.root / name).stat().st_size for name in self.names(folder)}

    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        for folder in _FOLDERS:
            remove_temporary(self.root / folder)


class ArrowStore:
    """An object store or HDFS by URI: an object appears when its upload is closed.

    Errors of the store are OSErrors with the object's address and without credentials.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        try:
            self._fs, self._root = fs.FileSystem.from_uri(uri)
        except (pa.ArrowException, OSError) as error:
            raise ShardError(f"{uri} is no place that pyarrow.fs knows: {scrubbed(str(error))}") from None

    @contextmanager
    def write(self, name: str) -> Iterator[BinaryIO]:
        path = f"{self._root}/{name}"
        temporary = f"{path}.{os.getpid()}.tmp"
        with self._errors_of(name):
            self._fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
            try:
                with self._fs.open_output_stream(temporary) as file:
                    yield file
                self._fs.move(temporary, path)
            except BaseException:
                if self._fs.get_file_info(temporary).type != fs.FileType.NotFound:
                    self._fs.delete_file(temporary)
                raise

    def open(self, name: str) -> BinaryIO:
        with self._errors_of(name):
            return self._fs.open_input_file(f"{self._root}/{name}")

    def exists(self, name: str) -> bool:
        with self._errors_of(name):
            return self._fs.get_file_info(f"{self._root}/{name}").type == fs.FileType.File

    def names(self, folder: str) -> list[str]:
        return sorted(self.sizes(folder))

    def sizes(self, folder: str) -> dict[str, int]:
        prefix = f"{folder}/" if folder else ""
        finished = (info for info in self._files(folder) if not _written_name(info))
        return {f"{prefix}{info.base_name}": info.size or 0 for info in finished}

    def _files(self, folder: str) -> list[fs.FileInfo]:
        with self._errors_of(folder):
            where = fs.FileSelector(f"{self._root}/{folder}".rstrip("/"), allow_not_found=True)
            return [info for info in self._fs.get_file_info(where) if info.type == fs.FileType.File]

    def remove(self, name: str) -> None:
        if self.exists(name):
            with self._errors_of(name):
                self._fs.delete_file(f"{self._root}/{name}")

    def sweep(self) -> None:
        """No lock keeps a second run out, so that only objects that are a day old are removed."""
        before_ns = time.time_ns() - _STALE_NS
        for folder in _FOLDERS:
            for info in self._files(folder):
                name = _written_name(info)
                is_ours = name in OUTPUT_FILES if not folder else bool(name)
                if is_ours and info.mtime_ns is not None and info.mtime_ns < before_ns:
                    with self._errors_of(f"{folder}/{info.base_name}".lstrip("/")):
                        self._fs.delete_file(info.path)

    @contextmanager
    def _errors_of(self, name: str) -> Iterator[None]:
        """Arrow's errors are raised as OSErrors of this object; those that name a file are another's."""
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            number = error.errno if isinstance(error, OSError) else None
            if number is not None and error.filename is not None:
                raise
            number = number or (errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EIO)
            raise OSError(number, scrubbed(str(error)), f"{self.uri}/{name}") from None


def _written_name(info: fs.FileInfo) -> str:
    """The name that an object will have once it is whole; '' for one that is: `ArrowStore.write`."""
    return info.base_name.rsplit(".", 2)[0] if is_temporary(f".{info.base_name}") else ""
