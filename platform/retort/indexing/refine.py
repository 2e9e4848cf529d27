"""Exact scores for candidates that codes proposed: `refine` of an index.

    Refiner(store, factor).rescored(queries, found, depth)

Codes of a few bits a dimension keep most of the ranking; the vectors themselves, memory-mapped float16 on disk, mend the
rest. Only the pages of candidates are ever read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retort.indexing.merge import Hits
from retort.indexing.opening import exact_scores
from retort.indexing.vectors import VectorStore

__all__ = ["Refiner"]

VECTORS_AT_ONCE = 8192
MOST_FILTERED = 4096


class Refiner:
    """Scores the best candidates of all shards with the stored vectors. Safe to share between threads."""

    def __init__(self, store: VectorStore, factor: int) -> None:
        """`factor` candidates are scored for each hit wanted; rows of `store` are those of the corpus."""
        self.store, self.factor = store, factor

    def depth(self, k: int, allowed: NDArray[np.bool_] | None = None) -> int:
        """How many candidates are asked of each shard for k hits.

        More under a filter: what passes may lie far from the query, where scores are close and codes confuse them.
        """
        if allowed is None:
            return self.factor * k
        share = max(int(np.count_nonzero(allowed)), 1) / max(1, len(allowed))
        return min(int(self.factor * k / math.sqrt(share)), max(MOST_FILTERED, self.factor * k))

    def rescored(self, queries: NDArray[np.float32], found: Sequence[Hits], depth: int) -> Hits:
        """The `depth` candidates of highest code score of each query, unsorted, with exact scores.

        Args:
            queries: [n, dimension].
            found: candidates of the shards, whose code scores compare: one quantiser made all of them.
        """
        scores, rows = found[0].scores, found[0].rows
        if len(found) > 1:
            scores = np.concatenate([hits.scores for hits in found], axis=1)
            rows = np.concatenate([hits.rows for hits in found], axis=1)
        if rows.shape[1] > depth:
            best = (-scores).argpartition(depth - 1, axis=1)[:, :depth]
            rows = rows[np.arange(len(rows))[:, None], best]
        # Ascending rows, so that the disk is read in one direction; -1 comes first.
        rows = np.sort(rows, axis=1)
        exact = np.full(rows.shape, -np.inf, dtype=np.float32)
        together = max(1, VECTORS_AT_ONCE // max(1, rows.shape[1]))
        for start in range(0, len(queries), together):
            own = rows[start : start + together]
            vectors = self.store.rows(np.maximum(own, 0).reshape(-1))  # [queries * depth, dim]
            for query, of_query in enumerate(vectors.reshape(*own.shape, -1), start):
                exact[query] = exact_scores(of_query, queries[query])
        exact[rows < 0] = -np.inf
        return Hits(exact, rows)
