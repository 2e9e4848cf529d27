"""How well one order of a query's candidates agrees with another, judgement by judgement. Pure functions over arrays.

    label_concordance   with the labels: does the teacher put what is relevant above what is not
    order_concordance   with another teacher: do both put the same passages above each other
    by_query            means per query, the unit that intervals are drawn over

A judgement's concordance is the share of its comparisons, all within its own query, that come out right; equal scores count
half. 1 is perfect, 1/2 is a coin, 0 is upside down; NaN where there is nothing to compare with. Arrays are [n] judgements,
`query` the number of the query that each belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["by_query", "label_concordance", "order_concordance"]

Floats = NDArray[np.float64]
CANDIDATES_AT_ONCE = 512  # of one list: bounds the square of its length


def label_concordance(scores: Floats, relevant: NDArray[np.bool_], query: NDArray[np.int64]) -> Floats:
    """Return per judgement the share of oppositely labelled candidates of its query that it is ordered rightly against."""
    found = np.full(len(scores), np.nan)
    for rows in _lists(query, scores):
        above, below = rows[relevant[rows]], rows[~relevant[rows]]
        if not len(above) or not len(below):
            continue
        # By counting in the sorted opposite side: lists of thousands need no square matrix.
        found[above] = _share_below(scores[above], np.sort(scores[below]))
        found[below] = 1.0 - _share_below(scores[below], np.sort(scores[above]))
    return found


def order_concordance(scores: Floats, other: Floats, query: NDArray[np.int64]) -> Floats:
    """Return per judgement the share of the other candidates of its query that both teachers put on the same side of it.

    A tie of one or both teachers counts half. NaN where either has no score, or the query no second candidate.
    """
    found = np.full(len(scores), np.nan)
    for rows in _lists(query, scores + other):
        if len(rows) < 2:
            continue
        for start in range(0, len(rows), CANDIDATES_AT_ONCE):
            some = rows[start : start + CANDIDATES_AT_ONCE]
            ours = np.sign(scores[some][:, None] - scores[rows][None, :])  # [some, list]
            theirs = np.sign(other[some][:, None] - other[rows][None, :])
            alike = (1.0 + ours * theirs) / 2  # 1 alike, 1/2 tied, 0 opposite
            found[some] = (alike.sum(axis=1) - 0.5) / (len(rows) - 1)  # without itself, a tie
    return found


def by_query(values: Floats, query: NDArray[np.int64], rows: NDArray[np.bool_] | None = None) -> dict[int, float]:
    """Return the mean per query over the judgements (of `rows`) that have a value."""
    there = np.isfinite(values) if rows is None else np.isfinite(values) & rows
    names, place = np.unique(query[there], return_inverse=True)
    sums = np.bincount(place, weights=values[there], minlength=len(names))
    counts = np.bincount(place, minlength=len(names))
    return {int(name): float(total / count) for name, total, count in zip(names, sums, counts, strict=True)}


def _lists(query: NDArray[np.int64], scores: Floats) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each query that have a score."""
    rows = np.flatnonzero(np.isfinite(scores))
    rows = rows[np.argsort(query[rows], kind="stable")]
    yield from np.split(rows, np.flatnonzero(np.diff(query[rows])) + 1) if len(rows) else ()


def _share_below(values: Floats, ordered: Floats) -> Floats:
    """Return for each value the share of `ordered` (ascending) below it, ties counting half."""
    both = np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")
    share: Floats = both / (2 * len(ordered))
    return share
