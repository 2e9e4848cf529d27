"""Recall under filters, wide and narrow, even and lying in one corner of the space, against exact search under the same."""

import numpy as np
import pytest

from retort.indexing.exact import ExactIndex
from retort.indexing.search import ShardedIndex

from .conftest import unit_vectors

COUNT = 10_000
KINDS = {
    "hnsw": {"kind": "HNSW16,Flat"},
    "hnsw-sq8": {"kind": "HNSW16,SQ8"},
    "ivf-flat": {"kind": "IVF64,Flat"},
    "ivf-sq8": {"kind": "IVF64,SQ8"},
    "ivf-pq, refined": {"kind": "IVF64,PQ16x4fs", "refine": 16},
    "ivf-rabitq, refined": {"kind": "IVF64,RaBitQ", "refine": 8},
}


@pytest.fixture(scope="module")
def collection():
    """Vectors in 50 clusters, the cluster of each, and queries near the clusters."""
    generator = np.random.default_rng(0)
    clusters = generator.integers(0, 50, COUNT)
    centres = unit_vectors(50, 16, seed=1).astype(np.float32)
    vectors = centres[clusters] + 0.2 * generator.standard_normal((COUNT, 16)).astype(np.float32)
    queries = centres[generator.integers(0, 50, 40)] + 0.2 * generator.standard_normal((40, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), clusters, queries


def masks(share, clusters):
    """So many passages spread evenly, and so many out of neighbouring clusters, far from most queries."""
    even = np.random.default_rng(3).random(COUNT) < share
    corner = np.zeros(COUNT, dtype=bool)
    corner[np.argsort(clusters, kind="stable")[: int(share * COUNT)]] = True
    return {"even": even, "corner": corner}


def exact_among(embeddings, queries, allowed):
    hits = ExactIndex.open(embeddings).search(queries, COUNT)
    return [[row for row in rows if allowed[row]][:10] for rows in hits.rows.tolist()]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("share", [0.5, 0.05, 0.001])
def test_recall_is_kept_under_filters(publish_embeddings, make_index, collection, monkeypatch, name, share):
    monkeypatch.setattr(
        "retort.indexing.opening.NARROW_COUNT", 64
    )  # as in a large index: 5 % goes through the graph or lists
    vectors, clusters, queries = collection
    embeddings = publish_embeddings(vectors, rows=5000)
    index = ShardedIndex.open(make_index(embeddings, **KINDS[name]))
    unfiltered = exact_among(embeddings, queries, np.ones(COUNT, dtype=bool))
    found = index.search(queries, 10).rows.tolist()
    plain = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, unfiltered)])
    assert plain > 0.85
    for where, allowed in masks(share, clusters).items():
        expected = exact_among(embeddings, queries, allowed)
        rows = index.search(queries, 10, allowed).rows
        assert allowed[rows[rows >= 0]].all()
        recall = np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(rows.tolist(), expected)])
        assert recall >= min(plain, 0.97) - 0.02, (where, recall, plain)
