"""A draft: an artefact in the making.

Files are written whole, so that a killed run's complete parts are kept by the next one; `publish` writes the manifest
last and if absent. Names starting with "_" are scratch (checkpoints, logs): kept for resumption, deleted at publication.
"""

from __future__ import annotations

import io
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from retort import __version__
from retort.errors import BusyError, StorageError
from retort.store.artefact import Artefact
from retort.store.files import FileArea
from retort.store.locks import lease
from retort.store.manifest import MANIFEST, InputRecord, Manifest, StoredFile, files_digest
from retort.store.pointers import Pointer


def _cpu_seconds() -> float:
    """CPU time of this process and its ended children, in seconds."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


class Draft:
    """Made by `Store.draft` (and `Store.unfinished`). Use as a context manager round the work: it holds the lease on this key."""

    def __init__(
        self,
        store_area: FileArea,
        kind: str,
        name: str,
        step: str,
        version: int,
        key: str,
        inputs: list[InputRecord],
        config: dict[str, Any],
    ) -> None:
        self.store_area = store_area
        self.area = store_area.at(kind, key)
        self.kind, self.name, self.key = kind, name, key
        self._step, self._version, self._inputs, self._config = step, version, inputs, config
        self._stack: ExitStack | None = None
        self._lost: Any = None
        self._began = (time.monotonic(), _cpu_seconds())

    def __getstate__(self) -> dict[str, Any]:
        # Workers write parts; the lease and the publication stay with the process that opened the draft.
        return {**self.__dict__, "_stack": None, "_lost": None}

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        pointer = Pointer(self.store_area.at("locks", f"{self.kind}-{self.key[:16]}"))
        self._lost = self._stack.enter_context(lease(pointer, f"making {self.kind}/{self.name}"))
        self._began = (time.monotonic(), _cpu_seconds())
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._stack is not None
        self._stack.close()

    @property
    def published(self) -> Artefact | None:
        """The artefact, if it exists already: then there is nothing to do."""
        from retort.store.store import Store

        found = Store(self.store_area).find(self.kind, self.key)
        if found is not None:
            Store(self.store_area).bind_name(found, self.name)
        return found

    # Writing

    def has(self, path: str) -> bool:
        """Whether this file is complete, from this run or an earlier one."""
        return self.area.exists(path)

    def files(self) -> list[str]:
        """Complete files so far, scratch included."""
        return [item.path for item in self.area.list()]

    def write_table(self, path: str, table: pa.Table, *, compression: str = "zstd") -> None:
        """One Parquet file, whole or not at all; same table, same bytes."""

        def fill(target: Path) -> None:
            pq.write_table(table, target, compression=compression)

        self.area.write(path, fill)

    def write_json(self, path: str, value: Any) -> None:
        """One JSON file."""
        self.area.write_bytes(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode())

    def write_bytes(self, path: str, data: bytes) -> None:
        """One file of bytes."""
        self.area.write_bytes(path, data)

    def write_with(self, path: str, fill: Callable[[Path], None]) -> None:
        """One file that `fill` writes to the local path it is given."""
        self.area.write(path, fill)

    def put_file(self, path: str, local: Path) -> None:
        """Copy a local file in."""

        def fill(target: Path) -> None:
            shutil.copyfile(local, target)

        self.area.write(path, fill)

    @contextmanager
    def folder_for(self, prefix: str = "") -> Iterator[Path]:
        """A local temporary folder whose files are moved below `prefix` when the context ends well."""
        with tempfile.TemporaryDirectory(prefix="retort-") as folder:
            yield Path(folder)
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    self.put_file(f"{prefix}{path.relative_to(folder).as_posix()}", path)

    def scratch(self, name: str = "_scratch") -> str:
        """URI of a folder for checkpoints and logs; it outlives a killed run and goes at publication."""
        assert name.startswith("_"), name
        if self.area.is_local:
            (self.area.root / name).mkdir(parents=True, exist_ok=True)
            return str(self.area.root / name)
        return self.area.full(name)

    def read_table(self, path: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file of this draft."""
        return pq.read_table(io.BytesIO(self.area.read(path)), columns=columns)

    def rows(self, path: str) -> int:
        """Rows of a Parquet file of this draft, from its footer."""
        with self.area.open(path) as handle:
            return int(pq.ParquetFile(handle).metadata.num_rows)

    def read_json(self, path: str) -> Any:
        """A JSON file of this draft."""
        return json.loads(self.area.read(path))

    # Publication

    def publish(
        self,
        *,
        rows: int | None = None,
        metrics: dict[str, Any] | None = None,
        licences: list[str] | None = None,
        personal_data: str = "unknown",
        notes: str = "",
    ) -> Artefact:
        """Hash all data files, write the manifest (the commit point), name it, and drop the scratch files."""
        if self._lost is not None and self._lost.is_set():
            raise BusyError(
                f"The lease on {self.kind}/{self.name} was lost to another process, so nothing was published. Run it again."
            )
        stored = [
            StoredFile(path=item.path, size_bytes=item.size_bytes, sha256=self.area.sha256(item.path))
            for item in self.area.list()
            if not item.path.startswith("_") and item.path != MANIFEST
        ]
        if not stored:
            raise StorageError(f"{self.kind}/{self.name} has no data files, so it was not published.")
        manifest = Manifest(
            kind=self.kind,
            name=self.name,
            key=self.key,
            digest=files_digest(stored),
            step=self._step,
            step_version=self._version,
            inputs=self._inputs,
            config=self._config,
            code_version=__version__,
            rows=rows,
            size_bytes=sum(item.size_bytes for item in stored),
            files=stored,
            metrics=metrics or {},
            licences=licences or [],
            personal_data=personal_data,
            notes=notes,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            wall_s=round(time.monotonic() - self._began[0], 3),
            cpu_s=round(_cpu_seconds() - self._began[1], 3),
        )
        self.area.put_if_absent(MANIFEST, manifest.model_dump_json(indent=1).encode())
        artefact = self.published
        assert artefact is not None, self.area.uri
        for folder in self.area.folders():
            if folder.startswith("_"):
                self.area.delete_folder(folder)
        return artefact

    def discard(self) -> None:
        """Delete everything written so far (only for drafts that must not be resumed)."""
        if not self.has(MANIFEST):
            self.area.delete_folder()
