"""Which passages a query is trained with: one positive and sampled hard negatives, as a pure function of the step.

The training set is arrays of row numbers, never texts, so that it stays small and can be memory-mapped by every worker:

    positives[offsets[i]:offsets[i+1]]   the passages labelled relevant for query i
    pool[...]                            its hard negatives: candidates that are not labelled relevant, in rank order

`batch(step, rank, world)` is a pure function of (seed, step, rank, world size): a run that lost a worker, or that was
killed, draws the same lists again, and the union over ranks is the same global batch for every world size.

Neighbours: `prepare.py` builds these arrays from artefacts, `trainer.py` turns a batch into tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batch", "GroupSampler", "Ragged", "ragged"]

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Ragged:
    """Lists of integers of different lengths in two flat arrays (memory-mapped ones too)."""

    values: NDArray[np.integer]  # [total]
    offsets: NDArray[np.integer]  # [lists + 1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> NDArray[np.integer]:
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    def lengths(self, rows: NDArray[np.integer] | None = None) -> IntArray:
        """Return the length of each list, or of the lists `rows`; int64."""
        if rows is None:
            return np.diff(self.offsets).astype(np.int64)
        lengths: IntArray = (self.offsets[rows + 1] - self.offsets[rows]).astype(np.int64)
        return lengths


def ragged(lists: list[list[int]] | list[IntArray], dtype: str = "int32") -> Ragged:
    """Return `lists` flattened."""
    offsets = np.zeros(len(lists) + 1, dtype=np.int64)
    np.cumsum([len(entry) for entry in lists], out=offsets[1:])
    values = np.concatenate([np.asarray(entry, dtype=dtype) for entry in lists]) if lists else np.zeros(0, dtype=dtype)
    return Ragged(values=values.astype(dtype, copy=False), offsets=offsets)


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step."""

    queries: IntArray  # [lists] query rows
    passages: IntArray  # [lists, 1 + negatives] passage rows; column 0 is the positive; -1 where the list is shorter
    global_lists: int  # lists of the whole step over all ranks: what the sum of losses is divided by

    @property
    def mask(self) -> NDArray[np.bool_]:
        """[lists, 1 + negatives], True where there is a passage."""
        return self.passages >= 0


class GroupSampler:
    """Draws the lists of each step."""

    def __init__(
        self,
        positives: Ragged,
        pool: Ragged,
        *,
        passage_rows: int,
        batch_queries: int,
        negatives: int,
        seed: int,
        random_negatives: int = 0,
    ) -> None:
        """Take the arrays described above.

        Each list gets `negatives` hard negatives from its pool and `random_negatives` of all `passage_rows` passages.
        """
        assert len(positives) == len(pool), "one pool per query"
        self._positives = positives
        self._pool = pool
        self._passage_rows = passage_rows
        self._batch_queries = batch_queries
        self._hard = negatives
        self._negatives = negatives + random_negatives
        self._seed = seed
        self._orders: dict[int, IntArray] = {}

    def __len__(self) -> int:
        """Return the number of training queries."""
        return len(self._positives)

    def steps_per_epoch(self) -> float:
        """Return how many steps one pass over the queries takes (a fraction, for the last batch runs into the next)."""
        return len(self) / self._batch_queries

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Return rank's share of the lists of `step`: every world-th query, so that shares differ by one at most."""
        positions = np.arange(step * self._batch_queries, (step + 1) * self._batch_queries)[rank::world]
        epochs, places = np.divmod(positions, len(self))
        # A step touches one epoch, or a few where one ends: keep those orders, drop the ones behind.
        self._orders = {int(epoch): self._order(int(epoch)) for epoch in np.unique(epochs)}
        queries = np.array([self._orders[int(e)][p] for e, p in zip(epochs, places, strict=True)], dtype=np.int64)
        lists = [self._list(int(query), int(epoch)) for query, epoch in zip(queries, epochs, strict=True)]
        passages = np.stack(lists) if lists else np.zeros((0, 1 + self._negatives), dtype=np.int64)
        return Batch(queries=queries, passages=passages, global_lists=self._batch_queries)

    def _order(self, epoch: int) -> IntArray:
        if epoch in self._orders:
            return self._orders[epoch]
        return np.random.default_rng([self._seed, epoch]).permutation(len(self))

    def _list(self, query: int, epoch: int) -> IntArray:
        """Return [1 + negatives] passage rows for `query` in `epoch`, the positive first, -1 behind a short list."""
        generator = np.random.default_rng([self._seed, epoch, query])
        positives, pool = self._positives[query], self._pool[query]
        row = np.full(1 + self._negatives, -1, dtype=np.int64)
        row[0] = positives[generator.integers(len(positives))]
        chosen = generator.permutation(pool.copy())[: self._hard]  # an empty mapped array is refused otherwise
        if len(chosen) < self._negatives:
            # Also for a query with few candidates: easy passages, but its list is as long as the others.
            taken = set(map(int, positives)) | set(map(int, pool))
            draws = generator.integers(self._passage_rows, size=4 * self._negatives)
            fill = [int(draw) for draw in dict.fromkeys(draws.tolist()) if int(draw) not in taken]
            chosen = np.concatenate([chosen, np.array(fill[: self._negatives - len(chosen)], dtype=np.int64)])
        row[1 : 1 + len(chosen)] = chosen
        return row
