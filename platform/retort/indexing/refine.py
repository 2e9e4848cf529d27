"""Exact scores for candidates that codes proposed: `refine` of an index.

    Refiner(store, factor).rescored(queries, found, depth)
    Candidates.joined(candidates of parts of an index).best(depth)

Codes of a few bits a dimension keep most of the ranking; the vectors themselves, memory-mapped float16 on disk, mend the
rest. Only the pages of candidates are ever read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from retort.indexing.merge import Hits
from retort.indexing.opening import exact_scores
from retort.indexing.vectors import VectorStore

__all__ = ["Candidates", "Refiner"]

VECTORS_AT_ONCE = 8192
MOST_FILTERED = 4096


class Candidates(NamedTuple):
    """What codes proposed for each query: all [queries, candidates], in no order; row -1 and scores -inf where there are no more."""

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]
    code_scores: NDArray[np.float32]

    @classmethod
    def joined(cls, found: Sequence[Self]) -> Self:
        """The candidates of disjoint shards, whose code scores compare: one quantiser made all of them."""
        return found[0] if len(found) == 1 else cls(*(np.concatenate(of, axis=1) for of in zip(*found, strict=True)))

    def best(self, depth: int) -> Self:
        """The `depth` of highest code score of each query, among equals those of lowest row: the same whichever way shards were joined."""
        codes, rows = self.code_scores, self.rows
        if rows.shape[1] <= depth:
            return self
        best = (-codes).argpartition(depth - 1, axis=1)[:, :depth]  # [queries, depth]
        least = codes[np.arange(len(codes)), best[:, -1]]
        for query in np.flatnonzero(((codes >= least[:, None]).sum(axis=1) > depth) & np.isfinite(least)):
            best[query] = np.lexsort((rows[query], -codes[query]))[:depth]
        chosen = np.arange(len(codes))[:, None], best
        return type(self)(self.scores[chosen], rows[chosen], codes[chosen])


class Refiner:
    """Scores the best candidates of all shards with the stored vectors. Safe to share between threads."""

    def __init__(self, store: VectorStore, factor: int) -> None:
        """`factor` candidates are scored for each hit wanted; rows of `store` are those of the corpus."""
        self.store, self.factor = store, factor

    def depth(self, k: int, allowed: NDArray[np.bool_] | None = None) -> int:
        """How many candidates are asked of each shard, and scored of all shards together, for k hits.

        More under a filter: what passes may lie far from the query, where scores are close and codes confuse them.
        """
        if allowed is None:
            return self.factor * k
        share = max(int(np.count_nonzero(allowed)), 1) / max(1, len(allowed))
        return min(int(self.factor * k / math.sqrt(share)), max(MOST_FILTERED, self.factor * k))

    def candidates(self, queries: NDArray[np.float32], found: Sequence[Hits], depth: int) -> Candidates:
        """The `depth` candidates of highest code score of each query, with exact scores.

        Args:
            queries: [n, dimension].
            found: the shards' hits by code score.
        """
        best = Candidates.joined([Candidates(hits.scores, hits.rows, hits.scores) for hits in found]).best(depth)
        # Ascending rows, so that the disk is read in one direction; -1 comes first.
        order = np.arange(len(best.rows))[:, None], best.rows.argsort(axis=1)
        rows = best.rows[order]
        exact = np.full(rows.shape, -np.inf, dtype=np.float32)
        together = max(1, VECTORS_AT_ONCE // max(1, rows.shape[1]))
        for start in range(0, len(queries), together):
            own = rows[start : start + together]
            vectors = self.store.rows(np.maximum(own, 0).reshape(-1))  # [queries * depth, dim]
            for query, of_query in enumerate(vectors.reshape(*own.shape, -1), start):
                exact[query] = exact_scores(of_query, queries[query])
        exact[rows < 0] = -np.inf
        return Candidates(exact, rows, best.code_scores[order])

    def rescored(self, queries: NDArray[np.float32], found: Sequence[Hits], depth: int) -> Hits:
        """As `candidates`, unsorted, without the code scores."""
        scores, rows, _ = self.candidates(queries, found, depth)
        return Hits(scores, rows)
