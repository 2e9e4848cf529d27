"""A source's files: a local path or an s3:// or gs:// URI, listed, hashed, and read line by line with every check.

Lines are bounded, so that a file without line ends cannot fill the memory, and each complaint names file, line and byte.
Neighbours: rows.py what readers yield, detect.py which reader a folder needs.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

import pyarrow as pa
import pyarrow.fs as pafs

from retort.errors import InputError, NotFoundError

_CHUNK_BYTES = 4 << 20
_BOM = "\ufeff"


@dataclass(frozen=True)
class SourceFile:
    """One file: its path below the source's root, and its size on disk."""

    path: str
    size_bytes: int

    @property
    def stem(self) -> str:
        """The name without `.gz` and its extension: `corpus.de` of `corpus.de.jsonl.gz`."""
        return PurePosixPath(self.path.removesuffix(".gz")).stem

    @property
    def extension(self) -> str:
        """Lower case, without `.gz`: `.jsonl`; "" where there is none."""
        return PurePosixPath(self.path.removesuffix(".gz")).suffix.lower()


class SourceFiles:
    """The files below one path or URI (or the one file that it names), in the order of their paths; hidden ones are left out."""

    def __init__(self, uri: str, max_line_bytes: int = 5_000_000) -> None:
        """Raises NotFoundError where nothing is there, InputError where there are no files or the URI cannot be opened."""
        self.uri = uri.rstrip("/") or "/"
        self.max_line_bytes = max_line_bytes
        self._is_local = "://" not in uri
        self._filesystem, self._base = _open_filesystem(self.uri)
        with reading(self.uri):
            info = self._filesystem.get_file_info(self._base)
            if info.type == pafs.FileType.NotFound:
                raise NotFoundError(
                    f"There is nothing at {uri!r}. Name a folder or file that exists, or 'sample' for the built-in sample."
                )
            self.is_file = info.type == pafs.FileType.File
            if self.is_file:
                found = [SourceFile(PurePosixPath(self._base).name, info.size)]
                self._base = str(PurePosixPath(self._base).parent)
            else:
                infos = self._filesystem.get_file_info(pafs.FileSelector(self._base, recursive=True))
                prefix = len(self._base.rstrip("/")) + 1
                found = [SourceFile(item.path[prefix:], item.size) for item in infos if item.type == pafs.FileType.File]
        self.files = sorted(
            (item for item in found if self.is_file or not _is_hidden(item.path)), key=lambda item: item.path
        )
        if not self.files:
            raise InputError(f"The folder {uri!r} holds no files. Name a folder with a corpus in it.")

    def full(self, path: str) -> str:
        """How a message names a file."""
        return self.uri if self.is_file else f"{self.uri}/{path}"

    def native(self, path: str) -> tuple[str, pafs.FileSystem]:
        """(path, file system) for pyarrow's own readers."""
        return f"{self._base}/{path}", self._filesystem

    @contextmanager
    def open(self, path: str) -> Iterator[IO[bytes]]:
        """The file's bytes, unpacked if its name ends in .gz."""
        target = f"{self._base}/{path}"
        with reading(self.full(path)):
            with self._open_raw(target) as raw:
                if path.endswith(".gz"):
                    with gzip.GzipFile(fileobj=raw) as unpacked, io.BufferedReader(unpacked, 1 << 20) as buffered:
                        yield cast("IO[bytes]", buffered)
                else:
                    yield raw

    def _open_raw(self, target: str) -> IO[bytes]:
        if self._is_local:
            return Path(target).open("rb", buffering=1 << 20)
        # pyarrow's stream has all that a raw file needs, but does not inherit from one.
        return cast(
            "IO[bytes]",
            io.BufferedReader(
                cast("io.RawIOBase", self._filesystem.open_input_stream(target, compression=None)), 1 << 20
            ),
        )

    def sha256(self, path: str) -> str:
        """Checksum of the file as it is stored, hex."""
        digest = hashlib.sha256()
        target = f"{self._base}/{path}"
        with reading(self.full(path)), self._filesystem.open_input_stream(target, compression=None) as handle:
            while chunk := handle.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def lines(self, path: str, *, skip_blank: bool = True) -> Iterator[tuple[int, str]]:
        """(line number from 1, line without its end). InputError for bytes that are not UTF-8 and for a line over the limit."""
        limit = self.max_line_bytes
        with self.open(path) as handle:
            number = 0
            before = 0  # bytes of the lines before this one
            while raw := handle.readline(limit + 2):
                number += 1
                if len(raw.rstrip(b"\r\n")) > limit:
                    raise InputError(
                        f"{self.full(path)}:{number}: the line is longer than {limit:,} bytes. Expected one row per line; split the text, or raise max_line_bytes."
                    )
                try:
                    line = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise InputError(
                        f"{self.full(path)}:{number}: byte {before + error.start:,} of the file (0x{raw[error.start]:02x}) is not UTF-8. "
                        f"Convert the file, for example with: iconv -f latin1 -t utf-8."
                    ) from None
                before += len(raw)
                if number == 1:
                    line = line.removeprefix(_BOM)
                line = line.rstrip("\r\n")
                if line.strip() or not skip_blank:
                    yield number, line

    def text(self, path: str) -> str:
        """The whole file as text, with the checks of `lines`."""
        return "\n".join(line for _, line in self.lines(path, skip_blank=False))


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what goes wrong while reading `name` into one InputError."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{name} is not a whole gzip file: {error}. Copy or pack it again.") from None
    except FileNotFoundError:
        raise NotFoundError(f"{name} is not there any more.") from None
    except PermissionError:
        raise InputError(
            f"{name} cannot be read: permission denied. Allow reading, or run as somebody who may."
        ) from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{name} cannot be read: {str(error).splitlines()[0]}.") from None


def _open_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    if "://" not in uri:
        return pafs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    try:
        filesystem, base = pafs.FileSystem.from_uri(uri)
    except (pa.ArrowException, ValueError, OSError) as error:
        detail = str(error).splitlines()[0]
        raise InputError(
            f"Source URI {uri!r} cannot be opened: {detail}. Expected a local path, or s3://bucket/folder, gs://bucket/folder."
        ) from None
    return filesystem, str(base).rstrip("/")


def _is_hidden(path: str) -> bool:
    return any(part.startswith((".", "__")) for part in PurePosixPath(path).parts)
