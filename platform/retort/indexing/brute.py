"""The best rows by reading every vector: matrix products and a top-k, block by block.

torch's products were six times faster here than the BLAS inside FAISS's wheel (256 queries, 384 dimensions, one thread).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["best_rows"]

QUERIES_AT_ONCE = 256


def best_rows(
    queries: NDArray[np.float32], blocks: Iterable[tuple[int, NDArray[np.float32]]], wanted: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `wanted` rows of highest inner product with each query, unsorted, and their scores within rounding.

    Args:
        queries: [n, dim] float32.
        blocks: (first row, aligned float32 vectors [rows, dim]) of at least `wanted` rows in all.
        wanted: rows per query.

    Uses torch's threads of this process (`resources.limit_threads`).
    """
    asked = torch.from_numpy(queries)
    scores = torch.empty((len(queries), 0))
    rows = torch.empty((len(queries), 0), dtype=torch.int64)
    with torch.inference_mode():
        for start, block in blocks:
            vectors, width = torch.from_numpy(block), min(wanted, len(block))
            # In groups of queries: all products of thousands with a block would take gigabytes.
            best = [
                torch.topk(group @ vectors.T, width, dim=1, sorted=False)
                for group in torch.split(asked, QUERIES_AT_ONCE)
            ]
            own, places = (torch.cat([pair[i] for pair in best]) for i in range(2))  # [n, width]
            scores, rows = torch.cat([scores, own], dim=1), torch.cat([rows, places + start], dim=1)
            if scores.shape[1] > wanted:
                scores, places = torch.topk(scores, wanted, dim=1, sorted=False)
                rows = rows.gather(1, places)
    return scores.numpy(), rows.numpy()
