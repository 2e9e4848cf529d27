"""What the columns of the pool are to each query: negatives, and candidates that the teacher has judged.

The pool holds the passages of this worker's queries, and with several workers everybody's. A passage may stand in it
several times (two queries, or two workers, drew it); it counts once. A passage drawn for one query may have been judged
for another one too: that judgement teaches as well, and costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retort.distillation.training_set import TrainingSet

__all__ = ["PoolView", "view_pool"]


@dataclass(frozen=True)
class PoolView:
    """All arrays are [queries, columns]."""

    negative: NDArray[np.bool_]  # the column is a negative of the query
    judged: NDArray[np.bool_]  # the teacher judged it for this query
    scores: NDArray[np.float32]  # its logit, 0 where not judged
    trust: NDArray[np.float32]  # its trust, 0 where not judged


def view_pool(pool: NDArray[np.int64], queries: NDArray[np.int64], data: TrainingSet) -> PoolView:
    """Look at the passage rows of the pool [columns] from each of the query rows [queries]."""
    passages, first = np.unique(pool, return_index=True)
    shape = len(queries), len(pool)
    negative = np.zeros(shape, dtype=bool)
    negative[:, first] = True
    judged = np.zeros(shape, dtype=bool)
    scores, trust = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    for i, query in enumerate(queries.tolist()):
        columns, _ = _columns(data.known[query], passages, first)
        negative[i, columns] = False
        start = int(data.judged.offsets[query])
        columns, places = _columns(data.judged[query], passages, first)
        judged[i, columns] = True
        scores[i, columns] = data.scores[start + places]
        trust[i, columns] = data.trust[start + places]
    return PoolView(negative=negative, judged=judged, scores=scores, trust=trust)


def _columns(
    wanted: NDArray[np.int32], passages: NDArray[np.int64], first: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First column of each wanted passage that is in the pool, and its place among the wanted."""
    if not len(wanted) or not len(passages):
        none = np.zeros(0, dtype=np.int64)
        return none, none
    at = np.minimum(np.searchsorted(passages, wanted), len(passages) - 1)
    places = np.flatnonzero(passages[at] == wanted)
    return first[at[places]], places
