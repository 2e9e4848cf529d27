"""The systems that are compared, behind one protocol: texts in, rankings out.

Bm25System       words, no model
DenseSystem      a dual encoder and the index of its passages (the base, the student)
TeacherSystem    the student's first passages, read again by the cross-encoder
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from retort.corpus.lookup import Passages
from retort.evaluation.rerank import Ranking, reranked
from retort.indexing.search import ShardedIndex
from retort.mining.bm25 import Bm25
from retort.models.cross_encoder import Judge
from retort.models.dual_encoder import Encoder


class System(Protocol):
    """One way to answer queries."""

    name: str
    what: str
    """One line for the report: what it is made of."""
    index_bytes: int
    """Bytes on disk that a search needs next to the model's weights and the passages' texts."""

    def search(self, texts: Sequence[str], k: int) -> list[Ranking]:
        """For each query text, up to k (passage_id, score), best first."""


class Bm25System:
    """BM25 over all passages."""

    def __init__(self, bm25: Bm25) -> None:
        self.name, self.index_bytes = "bm25", bm25.index_bytes
        self.what = f"BM25 over words (k1 = {bm25.about['k1']:g}, b = {bm25.about['b']:g}), no model"
        self._bm25 = bm25

    def search(self, texts: Sequence[str], k: int) -> list[Ranking]:
        """For each query text, up to k (passage_id, score), best first; passages without a query word are no hits."""
        ids, scores = self._bm25.search(texts, k)
        return [list(zip(own, map(float, values), strict=True)) for own, values in zip(ids, scores, strict=True)]


class DenseSystem:
    """A dual encoder and an index of its passage vectors.

    The index is taken opened twice (both map the same files): for batches, and with the threads that a single query
    gets.
    """

    def __init__(self, name: str, encoder: Encoder, index: ShardedIndex, single: ShardedIndex) -> None:
        self.name, self.index_bytes = name, index.index_bytes
        shards = len(index.description["shards"])
        self.what = (
            f"dual encoder, {encoder.dimension} dimensions; FAISS {index.description['factory']} in {shards} "
            f"shard{'s' if shards > 1 else ''}"
        )
        self._encoder, self._index, self._single = encoder, index, single

    def search(self, texts: Sequence[str], k: int) -> list[Ranking]:
        """For each query text, up to k (passage_id, score), best first."""
        vectors = self._encoder.encode(list(texts), side="query")  # float32 [queries, dim]
        hits = (self._single if len(texts) == 1 else self._index).search(vectors, k)
        rankings: list[Ranking] = []
        for scores, rows in zip(hits.scores, hits.rows, strict=True):
            found = rows >= 0  # fewer than k passages: the rest is -1
            rankings.append(list(zip(self._index.passage_ids(rows[found]), map(float, scores[found]), strict=True)))
        return rankings


class TeacherSystem:
    """The student's ranking, its first `top` passages in the teacher's order."""

    def __init__(self, first: System, teacher: Judge, passages: Passages, top: int) -> None:
        self.name, self.index_bytes = "teacher", first.index_bytes
        self.what = f"cross-encoder over the student's first {top} passages"
        self._first, self._teacher, self._passages, self._top = first, teacher, passages, top

    def search(self, texts: Sequence[str], k: int) -> list[Ranking]:
        """For each query text, up to k (passage_id, score), best first."""
        rankings = []
        for text, ranking in zip(texts, self._first.search(texts, k), strict=True):
            ids = [passage for passage, _ in ranking[: self._top]]
            logits = self._teacher.score([(text, passage) for passage in self._passages.texts(ids)])
            rankings.append(reranked(ranking, dict(zip(ids, map(float, logits), strict=True))))
        return rankings
