"""A published artefact: its manifest, and reading its files.

Local stores are read in place; remote ones through the node cache (one copy per machine, checked once by checksum).
"""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retort.errors import CorruptError, NotFoundError
from retort.store.files import FileArea, storage_errors
from retort.store.manifest import Manifest


def cache_root() -> Path:
    """The node cache: $RETORT_CACHE, else `~/.cache/retort`."""
    return Path(
        os.environ.get("RETORT_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retort"
    )


@dataclass(frozen=True)
class Artefact:
    """One published artefact; picklable and cheap."""

    area: FileArea
    manifest: Manifest

    @property
    def kind(self) -> str:
        """corpus, queries, candidates, teacher, judgements, encoder, embeddings, index, mask or report."""
        return self.manifest.kind

    @property
    def name(self) -> str:
        """The name it was made under."""
        return self.manifest.name

    @property
    def key(self) -> str:
        """Hash of inputs, config and step version."""
        return self.manifest.key

    @property
    def digest(self) -> str:
        """Hash of the data files."""
        return self.manifest.digest

    @property
    def uri(self) -> str:
        """Where it is."""
        return self.area.uri

    @property
    def metrics(self) -> dict[str, Any]:
        """What its step measured."""
        return self.manifest.metrics

    @property
    def size_bytes(self) -> int:
        """Bytes of all data files."""
        return self.manifest.size_bytes

    def __str__(self) -> str:
        return f"{self.kind}/{self.name} ({self.key[:12]})"

    def store_area(self) -> FileArea:
        """The store's root (artefacts live at `<kind>/<key>` below it)."""
        return FileArea(self.area.uri.rsplit("/", 2)[0])

    def input(self, role: str) -> Artefact:
        """The artefact that this one was made from in the given role, from the same store."""
        from retort.store.store import Store

        for record in self.manifest.inputs:
            if record.role == role:
                found = Store(self.store_area()).find(record.kind, record.key)
                if found is None:
                    raise NotFoundError(
                        f"{self} was made from {record.kind}/{record.name} ({record.key[:12]}), which is not in {self.store_area().uri}."
                    )
                return found
        raise NotFoundError(
            f"{self} has no input {role!r}; it has {', '.join(r.role for r in self.manifest.inputs) or 'none'}."
        )

    # Files

    def files(self, pattern: str = "*") -> list[str]:
        """Paths of the data files that match, sorted."""
        return [item.path for item in self.manifest.files if fnmatch.fnmatch(item.path, pattern)]

    def parts(self) -> list[str]:
        """The numbered Parquet parts."""
        return self.files("part-*.parquet")

    def part(self, path: str, columns: list[str] | None = None) -> pa.Table:
        """One Parquet file as a table."""
        with self.area.open(path) as handle, self._corrupt(path):
            return pq.read_table(handle, columns=columns)

    def table(self, pattern: str = "part-*.parquet", columns: list[str] | None = None) -> pa.Table:
        """All matching Parquet files as one table, in path order."""
        paths = self.files(pattern)
        if not paths:
            raise NotFoundError(f"{self} holds no file like {pattern!r}; it holds {', '.join(self.files()[:5])}.")
        return pa.concat_tables([self.part(path, columns) for path in paths])

    def batches(
        self, pattern: str = "part-*.parquet", columns: list[str] | None = None, rows: int = 8192
    ) -> Iterator[pa.RecordBatch]:
        """Stream the matching Parquet files in bounded memory."""
        for path in self.files(pattern):
            with self.area.open(path) as handle, self._corrupt(path):
                yield from pq.ParquetFile(handle).iter_batches(batch_size=rows, columns=columns)

    def json(self, path: str) -> Any:
        """One JSON file; CorruptError where it is not as its manifest says: a changed digit is JSON still, and such files are small."""
        if path in self.files():
            self.verify_file(path)
        return json.loads(self.area.read(path))

    def local(self, path: str = "") -> Path:
        """A local file, or the whole folder for "". Remote files are copied to the node cache and checked there once."""
        if self.area.is_local:
            return self.area.root / path if path else self.area.root
        folder = cache_root() / "artefacts" / self.digest
        wanted = [
            item for item in self.manifest.files if not path or item.path == path or item.path.startswith(f"{path}/")
        ]
        if not wanted:
            raise NotFoundError(f"{self} holds no file {path!r}; it holds {', '.join(self.files()[:5])}.")
        for item in wanted:
            target = folder / item.path
            if not target.exists() or target.stat().st_size != item.size_bytes:
                self.area.download(item.path, target)
                found = FileArea(str(folder)).sha256(item.path)
                if found != item.sha256:
                    target.unlink()
                    raise CorruptError(
                        f"{self.area.full(item.path)} has checksum {found[:12]}, its manifest says {item.sha256[:12]}."
                    )
        return folder / path if path else folder

    def verify(self) -> None:
        """Hash every data file; CorruptError names the first that differs or is missing."""
        for item in self.manifest.files:
            self.verify_file(item.path)

    def verify_file(self, path: str) -> None:
        """Hash one data file against the manifest."""
        expected = next((item.sha256 for item in self.manifest.files if item.path == path), None)
        try:
            found = self.area.sha256(path)
        except NotFoundError:
            raise CorruptError(
                f"{self}: file {path} is missing from {self.uri}. Make the artefact again, or restore the file."
            ) from None
        if found != expected:
            raise CorruptError(
                f"{self}: file {path} has checksum {found[:12]}, its manifest says {(expected or 'nothing')[:12]}. "
                f"Delete {self.uri} and run the step again, or restore the file."
            )

    def _corrupt(self, path: str) -> Any:
        return storage_errors(f"read {self.area.full(path)}")
