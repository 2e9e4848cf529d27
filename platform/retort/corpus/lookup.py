"""Passages by id, for millions of them and many processes: everything is memory-mapped and shared between processes.

    Passages.open(corpus)         builds the mapped files in the node cache on first use (once per machine and corpus digest)
    .rows(ids) -> int64 [n]       row numbers; .texts(ids), .records(ids) by id; .texts_at(rows), .take(rows) by row

In the node cache, below `passages/<digest>/`: `table.arrow` (Arrow IPC, the columns of `schemas.PASSAGE`, in batches of BATCH_ROWS
rows), `hashes.npy` (uint64, sorted) and `rows.npy` (the row of each hash). An id is found by binary search over its hash, then
compared itself, so a hash collision cannot give another passage.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from retort.corpus.passages import passage_text
from retort.errors import InputError, NotFoundError
from retort.store import Artefact, cache_root
from retort.store.files import storage_errors
from retort.store.schemas import PASSAGE

BATCH_ROWS = 8192
_LAYOUT = "v1"
_TABLE, _HASHES, _ROWS = "table.arrow", "hashes.npy", "rows.npy"
_FIRST_NAMED = 5


class Passages:
    """The passages of one corpus artefact, mapped. Opening costs milliseconds; picklable (a copy maps the same files)."""

    def __init__(self, folder: Path, name: str) -> None:
        """Map the files below `folder`; use `open`."""
        self._folder, self._name = folder, name
        self._map = pa.memory_map(str(folder / _TABLE))
        reader = pa.ipc.open_file(self._map)
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        # All batches but the last are full.
        self._batch_rows = self._batches[0].num_rows if self._batches else BATCH_ROWS
        self._count: int = sum(batch.num_rows for batch in self._batches)
        # Looked up once: finding a column by name costs more than reading a value.
        self._columns = {name: [batch.column(name) for batch in self._batches] for name in PASSAGE.names}
        self._cells = {name: list(map(_Cells, columns)) for name, columns in self._columns.items()}
        # Plain arrays over the mapped files: numpy's memmap class is slow to index.
        self._hashes: npt.NDArray[np.uint64] = np.asarray(np.load(folder / _HASHES, mmap_mode="r"))
        self._rows: npt.NDArray[np.int64] = np.asarray(np.load(folder / _ROWS, mmap_mode="r"))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self._folder, self._name))

    @classmethod
    def open(cls, corpus: Artefact) -> Self:
        """Map the corpus, building its files in the node cache if they are not there. InputError for another kind of artefact."""
        if corpus.kind != "corpus":
            raise InputError(f"{corpus} is of kind {corpus.kind}; a corpus is needed here.")
        folder = cache_root() / "passages" / f"{corpus.digest}-{_LAYOUT}"
        if not (folder / _ROWS).exists():
            _build(corpus, folder)
        return cls(folder, str(corpus))

    def __len__(self) -> int:
        return self._count

    def __contains__(self, passage_id: str) -> bool:
        return int(self._find([passage_id])[0]) >= 0

    @cached_property
    def ids(self) -> list[str]:
        """All passage ids in row order, as Python strings (about 100 bytes each)."""
        return [value for column in self._columns["passage_id"] for value in column.to_pylist()]

    def rows(self, ids: Iterable[str]) -> npt.NDArray[np.int64]:
        """Row number of each id, int64 [n]. NotFoundError names the first unknown ids."""
        wanted = list(ids)
        found = self._find(wanted)
        if len(found) and int(found.min()) < 0:
            unknown = list(dict.fromkeys(passage_id for passage_id, row in zip(wanted, found, strict=True) if row < 0))
            more = f" and {len(unknown) - _FIRST_NAMED} more" if len(unknown) > _FIRST_NAMED else ""
            raise NotFoundError(
                f"{self._name} has no passage {', '.join(map(repr, unknown[:_FIRST_NAMED]))}{more}. Use ids of this corpus."
            )
        return found

    def texts(self, ids: Iterable[str]) -> list[str]:
        """`passage_text` of each id: what encoders, teachers and BM25 see."""
        return self.texts_at(self.rows(ids))

    def texts_at(self, rows: Iterable[int]) -> list[str]:
        """`passage_text` of each row number."""
        titles, texts = self._cells["title"], self._cells["text"]
        return [passage_text(titles[batch][place], texts[batch][place]) for batch, place in map(self._place, rows)]

    def ids_at(self, rows: Iterable[int]) -> list[str]:
        """The passage id of each row number."""
        ids = self._cells["passage_id"]
        return [ids[batch][place] for batch, place in map(self._place, rows)]

    def records(self, ids: Iterable[str], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Each passage as a dictionary of its columns; `fields` is unpacked from its JSON."""
        return self.records_at(self.rows(ids), columns)

    def records_at(self, rows: Iterable[int], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """As `records`, by row number."""
        chosen = [(name, self._cells[name]) for name in columns or PASSAGE.names]
        found = []
        for batch, place in map(self._place, rows):
            record: dict[str, Any] = {name: cells[batch][place] for name, cells in chosen}
            if "fields" in record:
                packed = record["fields"]
                record["fields"] = {} if packed == "{}" else json.loads(packed)
            found.append(record)
        return found

    def column(self, name: str) -> pa.ChunkedArray:
        """One whole column, mapped: nothing is copied until it is looked at."""
        return pa.chunked_array([batch.column(name) for batch in self._batches], type=PASSAGE.field(name).type)

    def equal_texts(
        self, rows: npt.NDArray[np.int64], other: Passages, other_rows: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """[n]: whether title and text of each of `rows` are those of the row of `other` at the same place."""
        equal = np.ones(len(rows), dtype=np.bool_)
        pairs = np.stack([rows // self._batch_rows, other_rows // other._batch_rows])  # [2, n]
        order = np.lexsort(pairs)
        edges = np.flatnonzero(np.any(np.diff(pairs[:, order], axis=1) != 0, axis=0)) + 1
        for group in np.split(order, edges) if len(order) else []:
            mine, theirs = pairs[:, group[0]]
            own = pa.array(rows[group] % self._batch_rows)
            others = pa.array(other_rows[group] % other._batch_rows)
            for name in ("title", "text"):
                same = pc.equal(self._columns[name][mine].take(own), other._columns[name][theirs].take(others))
                equal[group] &= same.to_numpy(zero_copy_only=False)
        return equal

    def iter_texts(self) -> Iterator[str]:
        """`passage_text` of all passages, in row order."""
        for batch in self._batches:
            titles, texts = batch.column("title").to_pylist(), batch.column("text").to_pylist()
            yield from map(passage_text, titles, texts)

    def _place(self, row: int) -> tuple[int, int]:
        """(batch, place in it) of a row number."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} passages")
        return divmod(int(row), self._batch_rows)

    def _find(self, wanted: Sequence[str]) -> npt.NDArray[np.int64]:
        """The row of each id, -1 where there is none."""
        found = np.full(len(wanted), -1, dtype=np.int64)
        if not len(self._hashes):
            return found
        hashes = _hashes(wanted)
        starts = np.searchsorted(self._hashes, hashes)
        inside = np.minimum(starts, len(self._hashes) - 1)
        is_there = (self._hashes[inside] == hashes).tolist()
        ids = self._cells["passage_id"]
        for number, (start, row) in enumerate(zip(inside.tolist(), self._rows[inside].tolist(), strict=True)):
            while is_there[number]:
                batch, place = divmod(row, self._batch_rows)
                if ids[batch][place] == wanted[number]:
                    found[number] = row
                    break
                start += 1  # another id has this hash; its neighbour may be the one
                is_there[number] = start < len(self._hashes) and bool(self._hashes[start] == hashes[number])
                row = int(self._rows[start]) if is_there[number] else -1
        return found


class _Cells:
    """The values of a string column without nulls, read one at a time, without Arrow's scalars, which cost more than the reading."""

    __slots__ = ("_bytes", "_ends")

    def __init__(self, column: pa.StringArray) -> None:
        _, ends, values = column.buffers()
        # In Arrow's layout int32 ends [rows + 1], the first one a beginning; without a row there need be no buffers.
        self._ends = memoryview(ends).cast("i")[column.offset :] if len(column) else memoryview(b"")
        self._bytes = memoryview(values) if values is not None else memoryview(b"")

    def __getitem__(self, place: int) -> str:
        return str(self._bytes[self._ends[place] : self._ends[place + 1]], "utf-8")


def _hashes(ids: Sequence[str]) -> npt.NDArray[np.uint64]:
    """64 bits of BLAKE2 of each id, uint64 [n]."""
    digests = b"".join(hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8).digest() for value in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def _build(corpus: Artefact, folder: Path) -> None:
    """Write the mapped files beside `folder` and rename them there whole; of several processes at once, the first to rename wins."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f"{folder.name}.tmp-{uuid.uuid4().hex[:8]}")
    temporary.mkdir()
    try:
        with storage_errors(f"write the passages of {corpus} to the node cache {folder}"):
            hashes = _write_table(corpus, temporary / _TABLE)
            order = np.argsort(hashes, kind="stable")
            np.save(temporary / _HASHES, hashes[order])
            np.save(temporary / _ROWS, order.astype(np.int64))
            try:
                temporary.rename(folder)
            except OSError:
                if not (folder / _ROWS).exists():
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_table(corpus: Artefact, path: Path) -> npt.NDArray[np.uint64]:
    """Copy the parts into one Arrow file in batches of exactly BATCH_ROWS rows; returns the hash of each id, in row order."""
    hashes: list[npt.NDArray[np.uint64]] = []

    def put(table: pa.Table) -> None:
        hashes.append(_hashes(table.column("passage_id").to_pylist()))
        writer.write_table(table.combine_chunks(), max_chunksize=BATCH_ROWS)

    waiting: list[pa.RecordBatch] = []
    count = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, PASSAGE) as writer:
        for batch in corpus.batches(columns=PASSAGE.names, rows=BATCH_ROWS):
            waiting.append(batch)
            count += batch.num_rows
            if count >= BATCH_ROWS:
                table = pa.Table.from_batches(waiting, schema=PASSAGE)
                put(table.slice(0, BATCH_ROWS))
                rest = table.slice(BATCH_ROWS)
                waiting, count = rest.to_batches(), rest.num_rows
        if count:
            put(pa.Table.from_batches(waiting, schema=PASSAGE))
    return np.concatenate(hashes) if hashes else np.zeros(0, dtype=np.uint64)
