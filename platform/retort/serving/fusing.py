"""BM25 beside the vectors: two rankings of one query become one by reciprocal rank fusion (metrics/fusion.py).

Both go to the same fixed depth, so that a page of a fused ranking is the same whatever page came before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retort.metrics.fusion import reciprocal_rank_fusion

FUSED_DEPTH = 100
"""Passages of each ranking that take part, unless the page needs more."""

Rows = NDArray[np.int64]


class WordIndex(Protocol):
    """What fusion needs of BM25; mining.bm25.Bm25 is one."""

    def rows(self, text: str, k: int, allowed: NDArray[np.bool_] | None = None) -> Rows:
        """Corpus rows [<= k], best first."""


def fused_depth(needed: int) -> int:
    """How deep both rankings go for so many hits."""
    return max(FUSED_DEPTH, 2 * needed)


def fuse(dense: Rows, words: Rows, ids_of: Callable[[Sequence[int]], list[str]]) -> tuple[Rows, NDArray[np.float32]]:
    """Rows of both rankings by the sum of 1 / (60 + rank), best first, equal sums by passage id; and those sums."""
    rows = np.unique(np.concatenate([dense, words]))
    ids = ids_of(rows.tolist())
    row_of = dict(zip(ids, rows.tolist(), strict=True))
    id_of = dict(zip(rows.tolist(), ids, strict=True))
    fused = reciprocal_rank_fusion([[id_of[row] for row in dense.tolist()], [id_of[row] for row in words.tolist()]])
    return (
        np.array([row_of[passage_id] for passage_id, _ in fused], dtype=np.int64),
        np.array([score for _, score in fused], dtype=np.float32),
    )
