"""A clustered set of any size whose neighbourhoods are as hard as those of real passages, and the measures that show it.

    VectorModel.fit(real).draw(1_000_000, seed)     float32 unit vectors [n, dim]
    hardness(vectors, queries)                      intrinsic dimension, contrast, recall of one graph at fixed widths

Real vectors are taken apart into broad themes, topics within them, and what is left of each passage. A made vector is a
theme, a topic and two leftovers, all drawn anew, so that no two are alike. The number of topics grows with the set: a
larger collection has more to say, it does not say the same more often.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from retort.indexing.brute import best_rows
from retort.indexing.faiss_library import faiss

PASSAGES_PER_NODE = (1000, 100)
"""Of a theme, and of a topic. With SPREAD they were chosen so that the three measures come close to the real ones at 33,000."""
SPREAD = 1.1
LEFTOVERS = 2
BLOCK = 65536
WIDTHS = (16, 32, 64, 128)


@dataclass
class VectorModel:
    """What was learnt from real vectors: their mean, the nodes of each level, and the leftovers."""

    mean: np.ndarray
    levels: list[np.ndarray]
    rest: np.ndarray

    @classmethod
    def fit(cls, real: np.ndarray) -> Self:
        mean = real.mean(axis=0)
        rest, levels = real - mean, []
        for share in PASSAGES_PER_NODE:
            means = faiss.Kmeans(real.shape[1], max(2, len(real) // share), niter=8, seed=1, min_points_per_centroid=1)
            means.train(np.ascontiguousarray(rest))
            _, nearest = means.index.search(np.ascontiguousarray(rest), 1)
            nodes = means.centroids[np.unique(nearest)]
            rest = rest - means.centroids[nearest[:, 0]]
            levels.append(nodes)
        return cls(mean, levels, rest)

    def draw(self, count: int, seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        nodes = self.mean[None, :]
        for known, share in zip(self.levels, PASSAGES_PER_NODE, strict=True):
            number = max(1, count // share)
            parents = generator.integers(0, len(nodes), number)
            nodes = nodes[parents] + known[generator.integers(0, len(known), number)]
        made = np.empty((count, len(self.mean)), dtype=np.float32)
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            block = nodes[generator.integers(0, len(nodes), size)].copy()
            for _ in range(LEFTOVERS):
                block += SPREAD / np.sqrt(LEFTOVERS) * self.rest[generator.integers(0, len(self.rest), size)]
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
