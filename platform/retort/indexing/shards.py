"""Building one shard, and the quantiser that all shards share: plain classes, run by `stages.py` and by tests without Ray.

A shard holds consecutive rows. It is written to a temporary file, opened again and checked there, and only then given its
name; so a shard that exists is whole and right.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retort.errors import CorruptError, InputError
from retort.indexing.faiss_library import faiss
from retort.indexing.kinds import IndexPlan, empty_index, faiss_reason
from retort.indexing.merge import merge_shards
from retort.indexing.opening import Shard, write_faiss_file
from retort.indexing.vectors import EmbeddingFacts, read_part
from retort.store import Artefact, Draft

__all__ = [
    "QuantiserTrainer",
    "ShardBuilder",
    "ShardRows",
    "check_shard",
    "ids_name",
    "shard_name",
    "shard_rows",
    "training_rows",
]

TRAINING_SCRATCH = "_training/"
TOP = 10
CHECKED = 32
"""Own vectors that a new shard is asked for."""
NEEDED_SHARE = 0.5
"""Share of them that an approximate shard must find among its first ten; below it, something is broken and not just coarse."""


def shard_name(number: int) -> str:
    """`shard-00003.faiss`."""
    return f"shard-{number:05d}.faiss"


def ids_name(number: int) -> str:
    """`ids-00003.parquet`."""
    return f"ids-{number:05d}.parquet"


@dataclass(frozen=True)
class ShardRows:
    """The rows of one shard, and where they lie: (part, first row in it, end row in it)."""

    number: int
    first_row: int
    count: int
    pieces: tuple[tuple[str, int, int], ...]


def shard_rows(parts: Sequence[tuple[str, int]], shards: int) -> list[ShardRows]:
    """Cut all rows into `shards` runs whose sizes differ by at most one."""
    total = sum(rows for _, rows in parts)
    edges = [total * number // shards for number in range(shards + 1)]
    return [
        ShardRows(number, start, stop - start, _pieces(parts, start, stop))
        for number, (start, stop) in enumerate(pairwise(edges))
    ]


def _pieces(parts: Sequence[tuple[str, int]], start: int, stop: int) -> tuple[tuple[str, int, int], ...]:
    pieces, first = [], 0
    for part, rows in parts:
        low, high = max(start, first), min(stop, first + rows)
        if low < high:
            pieces.append((part, low - first, high - first))
        first += rows
    return tuple(pieces)


def training_rows(count: int, wanted: int, seed: int) -> NDArray[np.int64]:
    """Rows to train on, ascending: a sample without replacement, the same for the same arguments."""
    if wanted >= count:
        return np.arange(count)
    rows: NDArray[np.int64] = np.sort(np.random.default_rng([seed, 7]).choice(count, wanted, replace=False))
    return rows


class _Reader:
    """What both builders need: embeddings, their facts, threads."""

    def __init__(
        self, *, draft: Draft, embeddings: Artefact, facts: EmbeddingFacts, plan: IndexPlan, threads: int
    ) -> None:
        self._draft, self._embeddings, self._facts, self._plan, self._threads = draft, embeddings, facts, plan, threads

    def _read(self, pieces: Sequence[tuple[str, int, int]]) -> Iterator[tuple[pa.ChunkedArray, NDArray[np.float32]]]:
        for part, start, stop in pieces:
            yield read_part(self._embeddings, part, self._facts.dimension, self._facts.similarity, start, stop)

    def _refused(self, doing: str, error: RuntimeError) -> InputError:
        return InputError(
            f"FAISS could not {doing} index kind {self._plan.factory!r}: {faiss_reason(error)}. Choose another kind, or auto."
        )


class QuantiserTrainer(_Reader):
    """Trains the one quantiser of all shards and keeps it in the draft's scratch, under the checksum of its bytes."""

    def __init__(self, *, parts: Sequence[tuple[str, int]], sample: int, seed: int, **common: Any) -> None:
        super().__init__(**common)
        self._parts, self._sample, self._seed = list(parts), sample, seed

    def __call__(self, part: str) -> dict[str, Any]:
        """Train; returns the path of the trained index and its seconds. `part` is only a name."""
        began = time.monotonic()
        rows = training_rows(self._facts.count, self._sample, self._seed)
        picked, first = [], 0
        for name, count in self._parts:
            own = rows[(rows >= first) & (rows < first + count)] - first
            if len(own):
                (_, vectors), *_ = self._read([(name, 0, count)])
                picked.append(vectors[own])
            first += count
        index = empty_index(self._plan.factory, self._facts.dimension)
        faiss.omp_set_num_threads(self._threads)
        try:
            index.train(np.concatenate(picked))
        except RuntimeError as error:
            raise self._refused("train", error) from None
        data = faiss.serialize_index(index).tobytes()
        path = f"{TRAINING_SCRATCH}{hashlib.sha256(data).hexdigest()}.faiss"
        self._draft.write_bytes(path, data)
        return {"path": path, "sample": len(rows), "seconds": time.monotonic() - began}


class ShardBuilder(_Reader):
    """Builds, checks and writes shards."""

    def __init__(self, *, shards: Sequence[ShardRows], trained: str | None, **common: Any) -> None:
        super().__init__(**common)
        self._shards = {shard_name(shard.number): shard for shard in shards}
        self._trained = trained

    def __call__(self, part: str) -> dict[str, Any]:
        """Make the shard of this file name; returns its count, the share of own vectors found, and its seconds.

        Raises InputError for unfit vectors or what FAISS refuses, CorruptError if the written shard is not right.
        """
        began = time.monotonic()
        shard = self._shards[part]
        index = self._empty()
        faiss.omp_set_num_threads(self._threads)
        every = max(1, shard.count // CHECKED)
        ids: list[pa.Array] = []
        checked: list[NDArray[np.float32]] = []
        done = 0
        for chunk_ids, vectors in self._read(shard.pieces):
            try:
                index.add(vectors)
            except RuntimeError as error:
                raise self._refused("fill", error) from None
            ids.extend(chunk_ids.chunks)
            checked.append(vectors[-done % every :: every].copy())  # a view would keep the whole part
            done += len(vectors)
        found: list[float] = []

        def fill(target: Path) -> None:
            write_faiss_file(index, target)
            positions = np.arange(0, done, every)
            found.append(check_shard(target, part, self._plan, np.concatenate(checked), positions, shard.count))

        rows = pa.array(np.arange(shard.first_row, shard.first_row + done))
        self._draft.write_table(
            ids_name(shard.number), pa.table({"row": rows, "passage_id": pa.chunked_array(ids, pa.string())})
        )
        self._draft.write_with(part, fill)
        return {"count": done, "found": found[0], "seconds": time.monotonic() - began}

    def _empty(self) -> Any:
        if self._trained is None:
            return empty_index(self._plan.factory, self._facts.dimension)
        data = self._draft.area.read(self._trained)
        if hashlib.sha256(data).hexdigest() != Path(self._trained).stem:
            raise CorruptError(
                f"{self._draft.area.full(self._trained)} is not what was trained. Delete it and run the same command again."
            )
        return faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))


def check_shard(
    path: Path, name: str, plan: IndexPlan, vectors: NDArray[np.float32], positions: NDArray[np.int64], count: int
) -> float:
    """Open a written shard of `count` vectors and ask it for some of its own; returns the share found.

    Args:
        vectors: [n, dimension], those that lie at `positions` of the shard.

    Raises CorruptError if too few find themselves.
    """
    what = f"Shard {name} as written"
    opened = Shard(
        path, what, first_row=0, count=count, dimension=vectors.shape[1], exact=plan.exact, settings=plan.search
    )
    # Codes propose more than they rank; what refining would look at counts as found.
    top = TOP * max(1, plan.search.get("refine", 1))
    hits = merge_shards([opened.search(vectors, top)], top, lambda rows: [f"{row:020d}" for row in rows])
    own = np.einsum("nd,nd->n", vectors, vectors)
    # Or ten others score as high: twins, or for plain inner products longer vectors.
    right = (hits.rows == positions[:, None]).any(axis=1)
    right |= hits.scores[:, -1] >= own * (1 - 1e-5)
    share = float(right.mean())
    if share < (1.0 if plan.exact else NEEDED_SHARE):
        raise CorruptError(
            f"{what} finds {share:.0%} of {len(positions)} of its own vectors. Look at index kind {plan.factory!r}, or run again."
        )
    return round(share, 4)
