"""Files under one root: a local folder or an object store, written whole or not at all.

Data moves through `pyarrow.fs`; the one conditional write that artefacts need (put-if-absent) goes through `obstore`,
since `pyarrow.fs` lacks it. Neighbours: pointers.py and locks.py build on `put_if_absent`, draft.py and artefact.py on the rest.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.fs as pafs
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, from_url

from retort.errors import InputError, NotFoundError, StorageError

log = logging.getLogger(__name__)

CHUNK_BYTES = 4 << 20
TEMPORARY = ".tmp-"


@dataclass(frozen=True)
class FileInfo:
    """A stored file: path relative to the area's root, and its size."""

    path: str
    size_bytes: int


@contextmanager
def storage_errors(doing: str, *, absence_is_an_answer: bool = False) -> Iterator[None]:
    """Turn the operating system's and object stores' refusals into one StorageError that says what was being done."""
    try:
        yield
    except (OSError, pa.ArrowException, obstore.exceptions.BaseError) as error:
        if isinstance(error, FileNotFoundError) and absence_is_an_answer:
            raise
        detail = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error).splitlines()[0]
        raise StorageError(
            f"Could not {doing}: {detail}. Nothing was published; free space or mend access, and run the same command again."
        ) from error


@dataclass(frozen=True)
class FileArea:
    """A folder (or bucket prefix) named by `uri`; picklable, so that workers write through it."""

    uri: str
    _fs: list[Any] = field(default_factory=list, repr=False, compare=False, hash=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return (FileArea, (self.uri,))

    @property
    def is_local(self) -> bool:
        """Whether files are on this machine's file system (or one mounted there, such as NFS)."""
        return "://" not in self.uri or self.uri.startswith("file://")

    @property
    def root(self) -> Path:
        """The local folder; only for local areas."""
        assert self.is_local, self.uri
        return Path(self.uri.removeprefix("file://")).absolute()

    def _filesystem(self) -> tuple[pafs.FileSystem, str]:
        if not self._fs:
            if self.is_local:
                self._fs.append((pafs.LocalFileSystem(), str(self.root)))
            else:
                try:
                    self._fs.append(pafs.FileSystem.from_uri(self.uri))
                except (pa.ArrowException, ValueError, OSError) as error:
                    raise InputError(
                        f"Store URI {self.uri!r} cannot be opened: {str(error).splitlines()[0]}. "
                        f"Expected a local path, or a URI such as s3://bucket/prefix or gs://bucket/prefix."
                    ) from None
        filesystem, base = self._fs[0]
        return filesystem, base

    def at(self, *parts: str) -> FileArea:
        """A folder below this one."""
        return FileArea("/".join([self.uri.rstrip("/"), *parts]))

    def full(self, path: str) -> str:
        """The URI of a file in this area."""
        return f"{self.uri.rstrip('/')}/{path}"

    # Reading

    def exists(self, path: str) -> bool:
        """Whether the file is there (whole: writes are renamed or uploaded at their end)."""
        if self.is_local:
            return (self.root / path).is_file()
        filesystem, base = self._filesystem()
        with storage_errors(f"look for {self.full(path)}"):
            return bool(filesystem.get_file_info(f"{base}/{path}").type == pafs.FileType.File)

    def folders(self, below: str = "") -> list[str]:
        """Names of the folders directly below."""
        if self.is_local:
            with storage_errors(f"list {self.full(below)}"):
                return sorted(entry.name for entry in _entries(self.root / below) if _is_folder(entry))
        filesystem, base = self._filesystem()
        with storage_errors(f"list {self.full(below)}"):
            infos = filesystem.get_file_info(pafs.FileSelector(f"{base}/{below}".rstrip("/"), allow_not_found=True))
        return sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)

    def list(self, below: str = "") -> list[FileInfo]:
        """All complete files below a folder, sorted by path; empty where there is no such folder."""
        if self.is_local:
            with storage_errors(f"list {self.full(below)}"):
                return sorted(_complete_files(self.root, self.root / below), key=lambda item: item.path)
        filesystem, base = self._filesystem()
        start = f"{base}/{below}".rstrip("/")
        with storage_errors(f"list {self.full(below)}"):
            selector = pafs.FileSelector(start, recursive=True, allow_not_found=True)
            infos = filesystem.get_file_info(selector)
        found = [
            FileInfo(info.path[len(base) :].lstrip("/"), info.size)
            for info in infos
            if info.type == pafs.FileType.File and _is_complete(info.base_name)
        ]
        return sorted(found, key=lambda item: item.path)

    @contextmanager
    def open(self, path: str) -> Iterator[pa.NativeFile]:
        """Random-access reading of one file; NotFoundError where it is absent."""
        filesystem, base = self._filesystem()
        try:
            with storage_errors(f"read {self.full(path)}", absence_is_an_answer=True):
                handle = filesystem.open_input_file(f"{base}/{path}")
        except FileNotFoundError:
            raise NotFoundError(f"{self.full(path)} is not there.") from None
        with handle:
            yield handle

    def read(self, path: str) -> bytes:
        """The whole file."""
        with self.open(path) as handle, storage_errors(f"read {self.full(path)}"):
            return bytes(handle.read())

    def sha256(self, path: str) -> str:
        """Checksum of one file, hex."""
        digest = hashlib.sha256()
        with self.open(path) as handle, storage_errors(f"read {self.full(path)}"):
            while chunk := handle.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def download(self, path: str, target: Path) -> None:
        """Copy one file to a local path, whole or not at all."""
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}{TEMPORARY}{uuid.uuid4().hex[:8]}")
        try:
            with self.open(path) as handle, storage_errors(f"copy {self.full(path)} to {target}"):
                with temporary.open("wb") as out:
                    while chunk := handle.read(CHUNK_BYTES):
                        out.write(chunk)
                temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    # Writing

    def write(self, path: str, fill: Callable[[Path], None]) -> None:
        """Let `fill` write a temporary local file, then move or upload it to `path`: other readers see all of it or nothing."""
        with storage_errors(f"write {self.full(path)}"):
            if self.is_local:
                target = self.root / path
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_name(f"{target.name}{TEMPORARY}{uuid.uuid4().hex[:8]}")
                try:
                    fill(temporary)
                    with temporary.open("rb+") as handle:
                        os.fsync(handle.fileno())  # a rename without it may survive a power cut that its bytes do not
                    temporary.replace(target)
                finally:
                    temporary.unlink(missing_ok=True)
            else:
                filesystem, base = self._filesystem()
                with tempfile.TemporaryDirectory(prefix="retort-") as folder:
                    temporary = Path(folder) / "file"
                    fill(temporary)
                    pafs.copy_files(
                        str(temporary),
                        f"{base}/{path}",
                        source_filesystem=pafs.LocalFileSystem(),
                        destination_filesystem=filesystem,
                    )

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write one small file."""

        def fill(target: Path) -> None:
            target.write_bytes(data)

        self.write(path, fill)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Create a file unless it exists; atomic on every store. Returns whether it was created."""
        with storage_errors(f"write {self.full(path)}"):
            if self.is_local:
                self.root.mkdir(parents=True, exist_ok=True)
                store: Any = LocalStore(str(self.root), mkdir=True)
            else:
                store = from_url(self.uri)
            try:
                obstore.put(store, path, data, mode="create")
            except AlreadyExistsError:
                return False
            return True

    def delete(self, path: str) -> None:
        """Delete one file; fine where it is gone already."""
        filesystem, base = self._filesystem()
        try:
            with storage_errors(f"delete {self.full(path)}", absence_is_an_answer=True):
                filesystem.delete_file(f"{base}/{path}")
        except FileNotFoundError:
            log.debug("%s was gone already", self.full(path))

    def delete_folder(self, path: str = "") -> None:
        """Delete a folder with all that is in it."""
        filesystem, base = self._filesystem()
        target = f"{base}/{path}".rstrip("/")
        with storage_errors(f"delete {self.full(path)}"):
            if self.is_local:
                shutil.rmtree(target, ignore_errors=True)
            elif filesystem.get_file_info(target).type == pafs.FileType.Directory:
                filesystem.delete_dir(target)


def _is_complete(name: str) -> bool:
    """Whether this is not the name that we, or obstore, give a file until it is whole."""
    return TEMPORARY not in name and "#" not in name


def _complete_files(root: Path, folder: Path) -> Iterator[FileInfo]:
    """Files below a local folder. What goes while we look was never there: pyarrow's listing fails on it."""
    for entry in _entries(folder):
        try:
            if entry.is_dir():
                yield from _complete_files(root, Path(entry.path))
            elif _is_complete(entry.name) and entry.is_file():
                yield FileInfo(Path(entry.path).relative_to(root).as_posix(), entry.stat().st_size)
        except FileNotFoundError:
            continue


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except FileNotFoundError:
        return False
