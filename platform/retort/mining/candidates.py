"""The candidates of one part of the queries: a plain class, run by `stages.py` in every actor and by tests without Ray.

One row per query, passage and *source*, so that nothing of where a passage came from is lost: a passage that BM25 and the
encoder both found has two rows, each with its rank (from 1) and score there. Within a query the labelled passages come first,
then BM25's and the encoder's by rank in turn, random ones last; `distinct_pairs` of that order is the list to judge.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retort.corpus.queries import QuerySet
from retort.store import Draft
from retort.store.schemas import CANDIDATE, PART_QUERIES, part_name

__all__ = [
    "SOURCES",
    "PartMiner",
    "PassageList",
    "TextSearch",
    "distinct_pairs",
    "query_parts",
    "query_sample",
    "random_rows",
]

SOURCES = ("labelled", "bm25", "dense", "random")
Row = tuple[str, str, str, int, float]


class TextSearch(Protocol):
    """What mining needs of BM25 and of a dense search."""

    def search(self, texts: Sequence[str], k: int) -> tuple[list[list[str]], list[NDArray[np.float32]]]:
        """Ids and scores of each text's k best passages, best first."""


class PassageList(Protocol):
    """What random candidates are drawn from; `corpus.lookup.Passages` is one."""

    def __len__(self) -> int:
        """How many passages there are."""

    def ids_at(self, rows: Sequence[int]) -> list[str]:
        """Passage ids of these rows."""


def query_parts(queries: int) -> list[str]:
    """Names of the parts that so many queries are cut into."""
    return [part_name(number) for number in range(-(-queries // PART_QUERIES))]


def query_sample(queries: QuerySet, at_most: int | None, seed: int) -> QuerySet:
    """A random sample of the queries in their order; all of them where there are no more.

    Decided by seed and query id, so that a grown query set keeps most of its sample.
    """
    if at_most is None or len(queries) <= at_most:
        return queries
    places = {name: hashlib.blake2b(f"{seed}\x00{name}".encode(), digest_size=16).digest() for name in queries.ids}
    chosen = set(sorted(queries.ids, key=places.__getitem__)[:at_most])
    return queries.subset(name for name in queries.ids if name in chosen)


def random_rows(query_id: str, seed: int, wanted: int, passages: int) -> NDArray[np.int64]:
    """`wanted` distinct rows (all, if there are fewer), decided by seed and query id alone, whatever the part or worker."""
    digest = hashlib.blake2b(f"{seed}\x00{query_id}".encode(), digest_size=16).digest()
    generator = np.random.default_rng(int.from_bytes(digest, "little"))
    rows: NDArray[np.int64] = generator.choice(passages, min(wanted, passages), replace=False)
    return rows


def distinct_pairs(table: pa.Table) -> pa.Table:
    """A candidates table with one row per query and passage: the first, which is its best source."""
    pairs = zip(table.column("query_id").to_pylist(), table.column("passage_id").to_pylist(), strict=True)
    first = {pair: row for row, pair in reversed(list(enumerate(pairs)))}
    return table.take(pa.array(sorted(first.values()), pa.int64()))


class PartMiner:
    """Finds candidates for parts of the queries and writes them through the draft."""

    def __init__(
        self,
        *,
        draft: Draft,
        queries: QuerySet,
        passages: PassageList,
        searches: Mapping[str, tuple[TextSearch, int]],
        random_k: int,
        include_labelled: bool,
        seed: int,
    ) -> None:
        """Take opened inputs; `searches` is source -> (search, candidates wanted of it)."""
        assert set(searches) <= set(SOURCES), searches
        self._draft, self._queries, self._passages, self._searches = draft, queries, passages, dict(searches)
        self._random_k, self._include_labelled, self._seed = random_k, include_labelled, seed

    def __call__(self, part: str) -> dict[str, Any]:
        """Mine one part; returns its queries, rows, distinct pairs, and the seconds of each source."""
        first = int(part.removeprefix("part-").removesuffix(".parquet")) * PART_QUERIES
        ids = self._queries.ids[first : first + PART_QUERIES]
        texts = self._queries.texts[first : first + PART_QUERIES]
        seconds: dict[str, float] = {}
        found: dict[str, list[list[tuple[str, float]]]] = {}
        for source, (search, k) in self._searches.items():
            began = time.monotonic()
            passages, scores = search.search(texts, k)
            found[source] = [
                list(zip(own, map(float, values), strict=True)) for own, values in zip(passages, scores, strict=True)
            ]
            seconds[source] = time.monotonic() - began
        rows: list[Row] = []
        pairs = 0
        for number, query_id in enumerate(ids):
            own = self._of_query(query_id, {source: lists[number] for source, lists in found.items()})
            rows.extend(own)
            pairs += len({row[1] for row in own})
        columns = zip(*rows, strict=True) if rows else ([] for _ in CANDIDATE.names)
        arrays = [pa.array(list(column), field.type) for column, field in zip(columns, CANDIDATE, strict=True)]
        self._draft.write_table(part, pa.Table.from_arrays(arrays, schema=CANDIDATE))
        return {"queries": len(ids), "rows": len(rows), "pairs": pairs, "seconds": seconds}

    def _of_query(self, query_id: str, found: Mapping[str, list[tuple[str, float]]]) -> list[Row]:
        rows: list[Row] = []
        if self._include_labelled:
            grades = self._queries.qrels.get(query_id, {})
            positives = sorted(self._queries.positives(query_id), key=lambda passage: (-grades[passage], passage))
            rows.extend(
                (query_id, passage, "labelled", rank, float(grades[passage]))
                for rank, passage in enumerate(positives, 1)
            )
        turns = [
            (rank, SOURCES.index(source), (query_id, passage, source, rank, score))
            for source, own in found.items()
            for rank, (passage, score) in enumerate(own, 1)
        ]
        rows.extend(row for _, _, row in sorted(turns))
        if self._random_k:
            taken = {row[1] for row in rows} | set(self._queries.positives(query_id))
            drawn = random_rows(query_id, self._seed, self._random_k + len(taken), len(self._passages))
            new = [passage for passage in self._passages.ids_at(drawn.tolist()) if passage not in taken][
                : self._random_k
            ]
            rows.extend((query_id, passage, "random", rank, 0.0) for rank, passage in enumerate(new, 1))
        return rows
