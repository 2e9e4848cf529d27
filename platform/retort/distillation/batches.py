"""Which queries and passages a step learns from: a pure function of (seed, step, rank, world size).

A run that lost a worker, or was killed, draws the same batches again; and the union over the ranks is the same global
batch for every world size, so that two workers learn what one learns with the doubled batch.

Each query comes with a list of candidates: in column 0 its positive (or, for an unlabelled query, the passage that the
teacher likes best), behind it candidates drawn from its pool anew in each epoch. With `similar` > 1 the queries of a
batch come in neighbourhoods of that size, which makes each other's passages hard negatives that cost nothing.

Neighbours: `training_set.py` holds the arrays, `collate.py` makes tensors of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retort.distillation.training_set import TrainingSet

__all__ = ["Batch", "BatchSampler", "neighbourhood_order"]

BLOCK = 4096
"""Queries among which neighbours are sought: the search is quadratic in this, not in the number of queries."""

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step."""

    step: int
    queries: IntArray  # [queries] query rows
    candidates: IntArray  # [queries, 1 + negatives] passage rows, -1 where the list is shorter
    labelled: NDArray[np.bool_]  # [queries] whether column 0 is a positive by label


class BatchSampler:
    """Draws the batches of a run."""

    def __init__(self, data: TrainingSet, *, batch_queries: int, negatives: int, similar: int, seed: int) -> None:
        """`batch_queries` is the size of the global batch, over all workers."""
        assert len(data) > 0, "a training set has at least one query"
        assert similar == 1 or data.vectors is not None, "neighbourhoods need vectors"
        self._data = data
        self._batch_queries = batch_queries
        self._negatives = negatives
        self._similar = similar
        self._seed = seed
        self._orders: dict[int, IntArray] = {}

    def steps_per_epoch(self) -> float:
        """Steps that one pass over the queries takes (a fraction, for the last batch runs into the next pass)."""
        return len(self._data) / self._batch_queries

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Rank's share of `step`: every world-th query of the global batch, so that shares differ by one at most."""
        positions = np.arange(step * self._batch_queries, (step + 1) * self._batch_queries)[rank::world]
        epochs, places = np.divmod(positions, len(self._data))
        # A step touches one epoch, or a few where one ends: keep those orders, drop the ones behind.
        self._orders = {int(epoch): self._order(int(epoch)) for epoch in np.unique(epochs)}
        queries = np.array([self._orders[int(e)][p] for e, p in zip(epochs, places, strict=True)], dtype=np.int64)
        lists = [self._candidates(int(query), int(epoch)) for query, epoch in zip(queries, epochs, strict=True)]
        labelled = self._data.positives.lengths(queries) > 0
        width = 1 + self._negatives
        candidates = np.stack(lists) if lists else np.zeros((0, width), dtype=np.int64)
        return Batch(step=step, queries=queries, candidates=candidates, labelled=labelled)

    def _order(self, epoch: int) -> IntArray:
        if epoch in self._orders:
            return self._orders[epoch]
        generator = np.random.default_rng([self._seed, epoch])
        order = generator.permutation(len(self._data)).astype(np.int64)
        if self._similar == 1 or self._data.vectors is None:
            return order
        return neighbourhood_order(order, self._data.vectors, self._similar, generator)

    def _candidates(self, query: int, epoch: int) -> IntArray:
        """[1 + negatives] passage rows for `query` in `epoch`."""
        generator = np.random.default_rng([self._seed, epoch, query])
        data = self._data
        positives, pool = data.positives[query], data.pool[query]
        row = np.full(1 + self._negatives, -1, dtype=np.int64)
        if len(positives):
            row[0] = positives[generator.integers(len(positives))]
        elif len(pool):
            judged = slice(data.judged.offsets[query], data.judged.offsets[query + 1])
            row[0] = data.judged[query][np.argmax(data.scores[judged])]
            pool = pool[pool != row[0]]
        # A copy: NumPy shuffles an empty array in place, and refuses where it is mapped read-only.
        drawn = generator.permutation(pool.copy())[: self._negatives]
        row[1 : 1 + len(drawn)] = drawn
        return row


def neighbourhood_order(
    order: IntArray, vectors: NDArray[np.float32], size: int, generator: np.random.Generator
) -> IntArray:
    """`order` rearranged so that runs of `size` queries are neighbours by inner product of their vectors [queries, dim].

    Within blocks of the shuffled order: a random query takes its nearest ones that are still free. The neighbourhoods come
    in random order; the few queries left over of each block come last.
    """
    runs: list[IntArray] = []
    rest: list[IntArray] = []
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        points = vectors[block]  # [block, dim]
        free = np.ones(len(block), dtype=bool)
        for first in generator.permutation(len(block)):
            if free.sum() < size:
                break
            if not free[first]:
                continue
            closeness = np.where(free, points @ points[first], -np.inf)
            closeness[first] = np.inf
            run = np.argpartition(-closeness, size - 1)[:size]
            free[run] = False
            runs.append(block[run])
        rest.append(block[free])
    shuffled = [runs[i] for i in generator.permutation(len(runs))]
    return np.concatenate([*shuffled, *rest]).astype(np.int64)
