"""Searching among the passages that may be found: filters, masks, deletions."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retort.errors import InputError
from retort.indexing.exact import ExactIndex
from retort.indexing.search import ShardedIndex

from .conftest import unit_vectors
from .test_search import by_hand


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_exact_kind_gives_exactly_the_best_of_what_is_allowed(publish_embeddings, make_index, data):
    """Whole numbers, so ties everywhere; one query and many go different ways and must agree."""
    count = data.draw(st.integers(1, 50))
    numbers = st.integers(-2, 2)
    triples = data.draw(st.lists(st.tuples(numbers, numbers, st.just(1)), min_size=count, max_size=count))
    stored = np.array(triples, dtype=np.float16)
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    asked = data.draw(st.integers(1, 10))
    queries = np.random.default_rng(count).integers(-2, 3, size=(asked, 3)).astype(np.float32)
    ids = [f"{place:03d}" for place in data.draw(st.permutations(range(count)))]
    k = data.draw(st.integers(1, 60))
    embeddings = publish_embeddings(stored, ids=ids, rows=17, similarity="inner_product", name=f"v{count}")
    index = ShardedIndex.open(make_index(embeddings, kind="flat", shards=data.draw(st.integers(1, min(4, count)))))
    expected = [[row for row in rows if allowed[row]][:k] for rows in by_hand(stored, queries, count, ids)]
    hidden = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    for hits in (index.search(queries, k, allowed), index.hiding(~allowed).search(queries, k)):
        assert [[row for row in rows if row >= 0] for rows in hits.rows.tolist()] == expected
    both = index.hiding(hidden).search(queries, k, allowed)
    left = [[row for row in rows if not hidden[row]] for rows in by_hand(stored, queries, count, ids)]
    left = [[row for row in rows if allowed[row]][:k] for rows in left]
    assert [[row for row in rows if row >= 0] for rows in both.rows.tolist()] == left


@pytest.fixture(scope="module")
def vectors():
    return unit_vectors(3000, 24)


@pytest.mark.parametrize(
    "kind", ["flat", "hnsw", "ivf-flat", "ivf-sq8", "PCA16,IVF16,Flat", "IVF32,PQ12x4fs", "PQ12x4fs"]
)
@pytest.mark.parametrize("share", [0.9, 0.3, 0.01])
def test_every_kind_finds_what_is_allowed_as_well_as_it_finds_all(
    publish_embeddings, make_index, monkeypatch, vectors, kind, share
):
    monkeypatch.setattr("retort.indexing.opening.NARROW_COUNT", 64)  # so that FAISS itself is asked
    embeddings = publish_embeddings(vectors, rows=1500)
    index = ShardedIndex.open(make_index(embeddings, kind=kind, shards=1))
    allowed = np.random.default_rng(3).random(len(vectors)) < share
    queries = unit_vectors(10, 24, seed=5).astype(np.float32)
    hits = index.search(queries, 10, allowed)
    assert (hits.rows >= 0).all() and allowed[hits.rows].all()
    exact = ExactIndex.open(embeddings).search(queries, len(vectors)).rows
    everything = index.search(queries, 10).rows.tolist()
    truth = [[row for row in rows if allowed[row]][:10] for rows in exact.tolist()]
    assert overlap(hits.rows.tolist(), truth) >= overlap(everything, exact[:, :10].tolist()) - 0.05
    if kind == "flat":
        assert hits.rows.tolist() == truth


def overlap(found, truth):
    return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth, strict=True)])


def test_nothing_allowed_finds_nothing_and_a_mask_of_another_length_is_refused(publish_embeddings, make_index):
    index = ShardedIndex.open(make_index(publish_embeddings(unit_vectors(30, 4))))
    hits = index.search(np.ones((2, 4), dtype=np.float32), 3, np.zeros(30, dtype=bool))
    assert (hits.rows == -1).all() and (hits.scores == -np.inf).all()
    with pytest.raises(InputError, match=r"30 passages; a mask over them has shape \[29\]"):
        index.search(np.ones((1, 4), dtype=np.float32), 3, np.ones(29, dtype=bool))
    with pytest.raises(InputError, match="of int64, expected"):
        index.hiding(np.ones(30, dtype=np.int64))
