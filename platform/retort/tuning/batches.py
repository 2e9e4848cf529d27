"""Which queries and passages a step learns from: a pure function of (seed, step, rank, world size).

The union over the ranks is the same global batch for every number of workers, so that two workers learn what one learns
with the doubled batch. Passage vectors are constants: every worker reads those of the whole batch itself, and nothing
is exchanged. Neighbours: `training_set.py` holds the arrays, `losses.py` takes the scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retort.models.batching import pad, token_batches
from retort.tuning.training_set import TrainingSet

__all__ = ["Batch", "BatchMaker", "Vectors"]

IntArray = NDArray[np.int64]


class Vectors(Protocol):
    """Where passage vectors come from: `indexing.vectors.VectorStore`."""

    def rows(self, rows: IntArray) -> NDArray[np.float32]:
        """Vectors of these rows, [n, dim]."""


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step, ready for the model; q queries, p distinct passages of the global batch."""

    queries: IntArray  # [q] which training queries
    texts: list[tuple[IntArray, Tensor, Tensor]]  # places among the q, ids and mask [part of q, tokens] int64
    passages: Tensor  # [p, dim] float32
    positive: Tensor  # [q] int64: column of each query's positive
    negatives: Tensor  # [q, negatives] int64: columns; anything where masked
    negative_mask: Tensor  # [q, negatives] bool
    others: Tensor  # [q, p] bool: passages that may stand against the query in InfoNCE
    judged: Tensor  # [q, judged] int64: columns of the teacher's candidates
    judged_mask: Tensor  # [q, judged] bool
    scores: Tensor  # [q, judged] float32 teacher logits
    trust: Tensor  # [q, judged] float32


class BatchMaker:
    """Draws the batches of a run and reads their vectors."""

    def __init__(
        self,
        data: TrainingSet,
        vectors: Vectors,
        *,
        batch_queries: int,
        negatives: int,
        random_share: float,
        loss: str,
        padding: int,
        seed: int,
        forward_tokens: int = 1024,
    ) -> None:
        """Take the arrays and where vectors are read.

        Args:
            data: the training set.
            vectors: of the corpus that its rows mean.
            batch_queries: size of the global batch.
            negatives: per query and step, at most.
            random_share: of these, drawn from the whole corpus.
            loss: triplet, infonce or distil: decides which passages are read.
            padding: the tokenizer's id for it.
            seed: of every draw.
            forward_tokens: padded tokens of one forward pass, so that texts of like length go together.
        """
        assert len(data) > 0, "a training set has at least one query"
        self._data, self._vectors = data, vectors
        self._batch_queries, self._negatives = batch_queries, negatives
        self._random = round(negatives * random_share)
        self._loss, self._padding, self._seed = loss, padding, seed
        self._forward_tokens = forward_tokens
        self._orders: dict[int, IntArray] = {}

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Rank's share of `step`: every world-th query of the global batch."""
        everybody, epochs = self._global(step)
        own = np.arange(len(everybody))[rank::world]
        # InfoNCE compares with everybody's passages; the other losses with a query's own.
        lists = np.full((len(everybody), 1 + self._negatives), -1, dtype=np.int64)
        if self._loss != "distil":
            for i in range(len(everybody)) if self._loss == "infonce" else own:
                lists[i] = self._passages(int(everybody[i]), int(epochs[i]))
        queries, drawn = everybody[own], lists[own]
        judged = [self._judged(int(query)) for query in queries]
        rows = np.unique(np.concatenate([lists[lists >= 0], *(found for found, _, _ in judged)]))  # [p]
        places = np.searchsorted(rows, drawn)  # [q, 1 + negatives]; 0 for the -1 of shorter lists
        return Batch(
            queries=queries,
            texts=self._texts(queries),
            passages=torch.from_numpy(self._vectors.rows(rows)),
            positive=torch.from_numpy(places[:, 0].copy()),
            negatives=torch.from_numpy(places[:, 1:].copy()),
            negative_mask=torch.from_numpy(drawn[:, 1:] >= 0),
            others=torch.from_numpy(self._others(queries, rows)),
            **_padded(judged, rows),
        )

    def _texts(self, queries: IntArray) -> list[tuple[IntArray, Tensor, Tensor]]:
        tokens = [self._data.tokens[int(query)] for query in queries]
        groups = token_batches([len(row) for row in tokens], self._forward_tokens)
        return [(group, *pad([tokens[i] for i in group], self._padding)) for group in groups]

    def _global(self, step: int) -> tuple[IntArray, IntArray]:
        """Queries of the global batch, and the pass over the data that each belongs to."""
        positions = np.arange(step * self._batch_queries, (step + 1) * self._batch_queries)
        epochs, places = np.divmod(positions, len(self._data))
        # A step touches one epoch, or a few where one ends: keep those orders, drop the ones behind.
        self._orders = {int(epoch): self._order(int(epoch)) for epoch in np.unique(epochs)}
        queries = np.array([self._orders[int(e)][p] for e, p in zip(epochs, places, strict=True)], dtype=np.int64)
        return queries, epochs

    def _order(self, epoch: int) -> IntArray:
        if epoch in self._orders:
            return self._orders[epoch]
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._data)).astype(np.int64)

    def _passages(self, query: int, epoch: int) -> IntArray:
        """[1 + negatives] rows: a positive, then hard and random negatives; -1 where the list is shorter."""
        generator = np.random.default_rng([self._seed, epoch, query])
        data = self._data
        row = np.full(1 + self._negatives, -1, dtype=np.int64)
        positives, mined = data.positives[query], data.negatives[query]
        row[0] = positives[generator.integers(len(positives))]
        # A copy: NumPy shuffles an empty array in place, and refuses where it is mapped read-only.
        hard = generator.permutation(mined.copy())[: self._negatives - self._random]
        drawn = self._random_rows(query, self._negatives - len(hard), hard, generator)
        row[1 : 1 + len(hard)] = hard
        row[1 + len(hard) : 1 + len(hard) + len(drawn)] = drawn
        return row

    def _random_rows(self, query: int, wanted: int, taken: IntArray, generator: np.random.Generator) -> IntArray:
        """Up to `wanted` distinct rows of the query's language that are neither known positives nor taken."""
        start, stop = self._data.starts[self._data.language[query] :][:2]
        # Twice as many and a few: known positives are rare, and another draw would make the result depend on more.
        drawn = self._data.by_language[generator.integers(start, stop, size=2 * wanted + 4)]
        fresh = drawn[~np.isin(drawn, np.concatenate([self._data.known[query], taken]))]
        _, first = np.unique(fresh, return_index=True)
        return fresh[np.sort(first)][:wanted].astype(np.int64)

    def _others(self, queries: IntArray, rows: IntArray) -> NDArray[np.bool_]:
        same: NDArray[np.bool_] = (
            self._data.passage_language[rows][None, :] == self._data.language[queries][:, None]
        )  # [q, p]
        for i, query in enumerate(queries):
            same[i] &= ~np.isin(rows, self._data.known[int(query)])
        return same

    def _judged(self, query: int) -> tuple[IntArray, NDArray[np.float32], NDArray[np.float32]]:
        part = slice(self._data.judged.offsets[query], self._data.judged.offsets[query + 1])
        if self._loss != "distil":
            part = slice(0, 0)
        return self._data.judged.values[part].astype(np.int64), self._data.scores[part], self._data.trust[part]


def _padded(
    judged: list[tuple[IntArray, NDArray[np.float32], NDArray[np.float32]]], rows: IntArray
) -> dict[str, Tensor]:
    """The teacher's candidates of each query as rectangles."""
    width = max((len(found) for found, _, _ in judged), default=0)
    places = np.zeros((len(judged), width), dtype=np.int64)
    there = np.zeros((len(judged), width), dtype=bool)
    scores, trust = (np.zeros((len(judged), width), dtype=np.float32) for _ in range(2))
    for i, (found, logits, weights) in enumerate(judged):
        mine = slice(0, len(found))
        places[i, mine], there[i, mine] = np.searchsorted(rows, found), True
        scores[i, mine], trust[i, mine] = logits, weights
    filled = {"judged": places, "judged_mask": there, "scores": scores, "trust": trust}
    return {name: torch.from_numpy(value) for name, value in filled.items()}
