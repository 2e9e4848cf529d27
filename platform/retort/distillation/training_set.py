"""What distillation reads: tokens, the words of each token, and row numbers, in memory-mapped Arrow made once per run.

`queries.arrow` has one row per training query, `passages.arrow` one per passage that any of them may meet; everything
else refers to rows of these. Workers map the files, so that a batch touches only the pages it needs.

Neighbours: `prepare.py` makes this from artefacts, `batches.py` draws rows, `collate.py` turns rows into tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["FILES", "Lists", "Texts", "TrainingSet", "lists_of"]

FILES = ("queries.arrow", "passages.arrow")


@dataclass(frozen=True)
class Lists:
    """Lists of numbers of different lengths, in two flat arrays (memory-mapped ones too)."""

    values: NDArray[np.int32]  # [total]
    offsets: NDArray[np.int64]  # [lists + 1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> NDArray[np.int32]:
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Length of each of the lists `rows`."""
        lengths: NDArray[np.int64] = self.offsets[rows + 1] - self.offsets[rows]
        return lengths


def lists_of(lists: Sequence[Sequence[int] | NDArray[np.integer]]) -> Lists:
    """`lists` flattened."""
    offsets = np.zeros(len(lists) + 1, dtype=np.int64)
    np.cumsum([len(entry) for entry in lists], out=offsets[1:])
    parts = [np.asarray(entry, dtype=np.int32) for entry in lists]
    return Lists(values=np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32), offsets=offsets)


@dataclass(frozen=True)
class Texts:
    """Tokenised texts, cut to the side's length, and the words of each token."""

    tokens: Lists  # ids, with prefix and special tokens
    words: Lists  # two numbers per token: its words as a half-open range (`models.alignment.Words`)

    def words_of(self, row: int) -> NDArray[np.int32]:
        """Words of each token of a text, [tokens, 2]."""
        return self.words[row].reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class TrainingSet:
    """Arrays of one run. `positives[i]`, `pool[i]` ... belong to query row i and hold passage rows."""

    query_ids: list[str]
    passage_ids: list[str]
    queries: Texts
    passages: Texts
    positives: Lists  # labelled relevant; empty for a query that is learnt from the teacher alone
    pool: Lists  # candidates to draw from: hard negatives, or all judged candidates of an unlabelled query
    known: Lists  # never a negative: positives and dropped false negatives
    judged: Lists  # passages with a judgement, ascending
    scores: NDArray[np.float32]  # [len(judged.values)] teacher logits
    trust: NDArray[np.float32]  # [len(judged.values)] in [0, 1]
    places: NDArray[np.int32]  # [len(judged.values)] place in the query's judged group; -1: no word map to use
    groups: NDArray[np.int64]  # [queries] number of the query's group in the judgements; -1: not judged
    vectors: NDArray[np.float32] | None  # [queries, dim] base encoder's, to put similar queries into one batch

    def __len__(self) -> int:
        return len(self.query_ids)

    def save(self, folder: Path) -> None:
        """Write both files under `folder`."""
        folder.mkdir(parents=True, exist_ok=True)

        def per_judged(values: NDArray[np.float32] | NDArray[np.int32]) -> pa.Array:
            return pa.LargeListArray.from_arrays(pa.array(self.judged.offsets), pa.array(values))

        columns = {
            "query_id": pa.array(self.query_ids, pa.large_string()),
            "tokens": _list_array(self.queries.tokens),
            "words": _list_array(self.queries.words),
            "positives": _list_array(self.positives),
            "pool": _list_array(self.pool),
            "known": _list_array(self.known),
            "judged": _list_array(self.judged),
            "scores": per_judged(self.scores),
            "trust": per_judged(self.trust),
            "places": per_judged(self.places),
            "group": pa.array(self.groups),
        }
        if self.vectors is not None:
            flat = pa.array(self.vectors.reshape(-1).astype(np.float32))
            columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, self.vectors.shape[1])
        _write(pa.table(columns), folder / FILES[0])
        passages = {
            "passage_id": pa.array(self.passage_ids, pa.large_string()),
            "tokens": _list_array(self.passages.tokens),
            "words": _list_array(self.passages.words),
        }
        _write(pa.table(passages), folder / FILES[1])

    @classmethod
    def open(cls, folder: Path) -> TrainingSet:
        """Map the files under `folder`."""
        queries, passages = (_read(folder / name) for name in FILES)
        judged = _lists(queries, "judged")
        vectors: NDArray[np.float32] | None = None
        if "vector" in queries.schema.names:
            column = queries.column("vector")
            vectors = column.values.to_numpy().reshape(len(column), column.type.list_size)
        return cls(
            query_ids=queries.column("query_id").to_pylist(),
            passage_ids=passages.column("passage_id").to_pylist(),
            queries=Texts(_lists(queries, "tokens"), _lists(queries, "words")),
            passages=Texts(_lists(passages, "tokens"), _lists(passages, "words")),
            positives=_lists(queries, "positives"),
            pool=_lists(queries, "pool"),
            known=_lists(queries, "known"),
            judged=judged,
            scores=queries.column("scores").values.to_numpy(),
            trust=queries.column("trust").values.to_numpy(),
            places=queries.column("places").values.to_numpy(),
            groups=queries.column("group").to_numpy(),
            vectors=vectors,
        )


def _list_array(lists: Lists) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(lists.offsets), pa.array(lists.values))


def _lists(batch: pa.RecordBatch, name: str) -> Lists:
    column = batch.column(name)
    return Lists(values=column.values.to_numpy(), offsets=column.offsets.to_numpy())


def _write(table: pa.Table, path: Path) -> None:
    """One record batch, so that a column is one flat array when mapped."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        for batch in table.combine_chunks().to_batches():
            writer.write_batch(batch)


def _read(path: Path) -> pa.RecordBatch:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    if reader.num_record_batches:
        return reader.get_batch(0)
    empty = pa.table({field.name: pa.array([], field.type) for field in reader.schema})
    return pa.RecordBatch.from_arrays([column.combine_chunks() for column in empty.columns], schema=reader.schema)
