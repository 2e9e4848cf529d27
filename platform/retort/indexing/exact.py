"""ExactIndex: exact search over embeddings, without an index: block by block in bounded memory.

The same interface and the same scores as a flat ShardedIndex; for mining, for measuring recall, and as a reference.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from retort.indexing.brute import best_rows
from retort.indexing.merge import Hits, merge_shards
from retort.indexing.opening import MARGIN, ROUNDING, exact_scores
from retort.indexing.search import PassageIds, checked_queries
from retort.indexing.vectors import BLOCK_ROWS, VectorStore
from retort.store import Artefact

__all__ = ["ExactIndex"]


class ExactIndex:
    """All vectors of an embeddings artefact, memory-mapped, searched by reading them."""

    def __init__(self, store: VectorStore, ids: PassageIds, what: str, block_rows: int = BLOCK_ROWS) -> None:
        """Take mapped vectors and ids; use `open`."""
        self._store, self._ids, self._what, self._block_rows = store, ids, what, block_rows
        self.dimension = store.facts.dimension
        self.similarity = store.facts.similarity
        self.passage_space = store.facts.passage_space

    @classmethod
    def open(cls, embeddings: Artefact, block_rows: int = BLOCK_ROWS) -> Self:
        """Map the embeddings; a block of `block_rows` x dimension float32 is held at a time. Errors as `VectorStore.open`."""
        store = VectorStore.open(embeddings)
        readers = [lambda part=part: embeddings.part(part, columns=["passage_id"]) for part in embeddings.parts()]
        ids = PassageIds.open(embeddings.digest, readers, len(store), str(embeddings))
        return cls(store, ids, str(embeddings), block_rows)

    def __len__(self) -> int:
        return len(self._store)

    def search(self, vectors: NDArray[np.float32], k: int) -> Hits:
        """The k best rows of each query vector; arguments, result and errors as `ShardedIndex.search`."""
        queries = checked_queries(vectors, k, self.dimension, self._what)
        best = Hits(*best_rows(queries, self._store.blocks(self._block_rows), min(k + MARGIN, len(self))))
        return self._settled(queries, best, k)

    def passage_ids(self, rows: NDArray[np.int64]) -> list[str]:
        """The user's passage ids of these rows (none may be -1)."""
        return self._ids.at(rows)

    def _settled(self, queries: NDArray[np.float32], best: Hits, k: int) -> Hits:
        """Scores summed in one fixed order, and passages that tie with the k-th taken in."""
        width = best.rows.shape[1]
        found = []
        for query, rows in zip(queries, best.rows, strict=True):
            vectors = self._store.rows(rows)
            scores = exact_scores(vectors, query)
            if width < len(self):
                edge = np.partition(scores, max(0, width - k))[max(0, width - k)]
                slack = ROUNDING * float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors).max() * np.dot(query, query)))
                if scores.min() + slack >= edge:
                    scores, rows = self._above(query, float(edge) - slack)
            found.append(merge_shards([Hits(scores[None, :], rows[None, :])], k, self.passage_ids))
        if not found:
            return Hits(np.zeros((0, k), dtype=np.float32), np.zeros((0, k), dtype=np.int64))
        return Hits(np.concatenate([hits.scores for hits in found]), np.concatenate([hits.rows for hits in found]))

    def _above(self, query: NDArray[np.float32], threshold: float) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """All rows with at least this score: for the rare query whose ties reach past the margin."""
        scores, rows = [], []
        for start, block in self._store.blocks(self._block_rows):
            own = exact_scores(block, query)
            at = np.flatnonzero(own >= threshold)
            scores.append(own[at])
            rows.append(at + start)
        return np.concatenate(scores), np.concatenate(rows)
