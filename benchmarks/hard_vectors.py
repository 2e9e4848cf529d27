"""A clustered set of any size whose neighbourhoods are as hard as those of real passages, and the measures that show it.

    VectorModel.fit(real).draw(1_000_000, seed)     float32 unit vectors [n, dim]
    hardness(vectors, queries)                      intrinsic dimension, contrast, recall of one graph at fixed widths

A made vector is a real one, moved by differences between neighbours of that one: the clusters are the real ones, and around
each point the set spreads as the real set does there. (Adding up themes, topics and leftovers, as an earlier model did, is
as hard at the real size, but its noise has every dimension: at ten times that size the ten nearest were all but equally
far, and no graph found them.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from retort.indexing.brute import best_rows
from retort.indexing.faiss_library import faiss

NEIGHBOURS = 128
DIFFERENCES = 8
SPREAD = 1.3
"""Of the moves, in standard deviations of the neighbourhood. At 1.0 a made set of the real size is as hard as the real one by
every measure below; at 1.3 it is harder there, and a million has the local intrinsic dimension of the 33,000 real ones."""
BLOCK = 65536
WIDTHS = (16, 32, 64, 128)


@dataclass
class VectorModel:
    """Real vectors [n, dim] and the rows of their neighbours [n, NEIGHBOURS]."""

    real: np.ndarray
    neighbours: np.ndarray

    @classmethod
    def fit(cls, real: np.ndarray) -> Self:
        vectors = np.asarray(real, dtype=np.float32)
        return cls(vectors, exact_rows(vectors, vectors, NEIGHBOURS + 1)[1][:, 1:])

    def draw(self, count: int, seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        made = np.empty((count, self.real.shape[1]), dtype=np.float32)
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            origin = generator.integers(0, len(self.real), size)
            block = self.real[origin].copy()
            for _ in range(DIFFERENCES):
                one, other = self.neighbours[origin[None, :], generator.integers(0, NEIGHBOURS, (2, size))]
                block += SPREAD / np.sqrt(2 * DIFFERENCES) * (self.real[one] - self.real[other])
            made[start : start + size] = block / np.linalg.norm(block, axis=1, keepdims=True)
        return made


def exact_rows(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows [n, k] of exact search, best first."""
    blocks = ((start, vectors[start : start + BLOCK].astype(np.float32)) for start in range(0, len(vectors), BLOCK))
    scores, rows = best_rows(queries, blocks, k)
    order = np.argsort(-scores, axis=1)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def recall_at(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]))


def hardness(vectors: np.ndarray, queries: np.ndarray, *, graph: bool = True) -> dict[str, Any]:
    """How hard the ten nearest are to find: medians over queries, and the recall of one HNSW (M 16, 100) at fixed widths.

    Local intrinsic dimension: the maximum-likelihood estimate of Levina and Bickel from 100 neighbours. Relative contrast:
    the mean distance over that of the tenth neighbour. Higher dimension and lower contrast are harder.
    """
    scores, rows = exact_rows(vectors, queries, 100)
    distances = np.sqrt(np.maximum(2 - 2 * scores, 1e-12))
    dimension = -1 / np.mean(np.log(distances[:, :-1] / distances[:, -1:]), axis=1)
    sample = vectors[np.random.default_rng(0).integers(0, len(vectors), 5000)]
    mean = np.sqrt(np.maximum(2 - 2 * queries @ sample.T, 0)).mean(axis=1)
    found: dict[str, Any] = {
        "vectors": len(vectors),
        "local_intrinsic_dimension": round(float(np.median(dimension)), 2),
        "relative_contrast": round(float(np.median(mean / distances[:, 9])), 3),
        "cosine_of_first": round(float(np.median(scores[:, 0])), 3),
        "cosine_of_tenth": round(float(np.median(scores[:, 9])), 3),
    }
    if graph:
        index = faiss.IndexHNSWFlat(vectors.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 100
        index.add(vectors)
        for width in WIDTHS:
            index.hnsw.efSearch = width
            found[f"recall@10 at ef {width}"] = round(recall_at(index.search(queries, 10)[1], rows[:, :10]), 4)
    return found
