"""Joining the hits of shards into one ranking: a pure function, the same for a replica, a fan-out and a batch job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import gt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Hits", "merge_shards"]

IdsOf = Callable[[NDArray[np.int64]], list[str]]


class Hits(NamedTuple):
    """The best rows of each query, best first, equal scores by passage id; row -1 and score -inf where there are no more."""

    scores: NDArray[np.float32]  # [queries, k]
    rows: NDArray[np.int64]  # [queries, k]


def merge_shards(found: Sequence[Hits], k: int, ids_of: IdsOf) -> Hits:
    """The k best of all shards' hits: by score, descending, then by passage id, ascending.

    Args:
        found: hits of disjoint shards with rows of the whole index, any width, in any order within a query; score -inf where
            the row is -1.
        k: width of the result.
        ids_of: passage ids of rows; asked only about rows with equal scores.
    """
    assert found, "at least one shard"
    scores, rows = found[0].scores, found[0].rows  # [queries, candidates]
    if len(found) == len(scores) == 1 and _falling(scores[0].tolist(), k):
        # A live query of one shard: its search is so short that each further step of numpy would be seen in it, and callers
        # on other threads wait for every one. Falling scores are in order, have no ties, and miss none but perhaps the last.
        return Hits(scores[:, :k], rows[:, :k])
    if len(found) > 1:
        scores = np.concatenate([hits.scores for hits in found], axis=1)
        rows = np.concatenate([hits.rows for hits in found], axis=1)
    scores = np.where(rows < 0, np.float32(-np.inf), scores)
    order = (np.arange(len(scores))[:, None], (-scores).argsort(axis=1, kind="stable"))
    scores, rows = scores[order], rows[order]
    tied = (scores[:, 1:] == scores[:, :-1]) & (rows[:, 1:] >= 0)  # [queries, candidates - 1]
    if tied.any():
        for query in np.flatnonzero(tied[:, :k].any(axis=1)):
            rows[query] = _ties_by_id(scores[query], rows[query], tied[query], ids_of)
    if scores.shape[1] < k:
        missing = ((0, 0), (0, k - scores.shape[1]))
        return Hits(np.pad(scores, missing, constant_values=-np.inf), np.pad(rows, missing, constant_values=-1))
    return Hits(np.ascontiguousarray(scores[:, :k]), np.ascontiguousarray(rows[:, :k]))


def _falling(scores: list[float], k: int) -> bool:
    return len(scores) >= k and all(map(gt, scores, scores[1:]))


def _ties_by_id(
    scores: NDArray[np.float32], rows: NDArray[np.int64], tied: NDArray[np.bool_], ids_of: IdsOf
) -> NDArray[np.int64]:
    """`rows` with each run of equal scores in the order of passage ids."""
    places = np.flatnonzero(np.append(tied, False) | np.insert(tied, 0, False))
    ids = ids_of(rows[places])
    order = sorted(range(len(places)), key=lambda i: (-scores[places[i]], ids[i]))
    result = rows.copy()
    result[places] = rows[places[order]]
    return result
