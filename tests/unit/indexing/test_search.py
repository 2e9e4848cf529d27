import json
import os

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retort.errors import CorruptError, IncompatibleError, InputError
from retort.indexing.exact import ExactIndex
from retort.indexing.search import PassageIds, ShardedIndex
from retort.store import cache_root

from .conftest import unit_vectors


def by_hand(stored, queries, k, ids):
    """Rows of the k highest inner products, equal ones by id; float64, so for vectors whose products are exact in float32."""
    products = queries.astype(np.float64) @ stored.astype(np.float64).T
    return [sorted(range(len(stored)), key=lambda row: (-own[row], ids[row]))[:k] for own in products]


def test_flat_search_equals_numpy(publish_embeddings, make_index):
    stored = unit_vectors(333, 48)
    queries = np.random.default_rng(1).standard_normal((25, 48)).astype(np.float32)
    index = ShardedIndex.open(make_index(publish_embeddings(stored), kind="flat", shards=3))
    hits = index.search(queries, 10)
    values = stored.astype(np.float64)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    products = queries @ values.T
    assert (hits.rows == np.argsort(-products, axis=1)[:, :10]).all()
    np.testing.assert_allclose(hits.scores, -np.sort(-products, axis=1)[:, :10], atol=3e-6)
    assert index.passage_ids(hits.rows[0])[0] == f"p{hits.rows[0, 0]:04d}"
    assert len(index) == 333 and index.exact and index.similarity == "cosine"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_number_of_shards_gives_the_hits_of_an_unsharded_search(publish_embeddings, make_index, data):
    """Small whole numbers: every product is exact, and ties are everywhere, also across the k-th place."""
    count = data.draw(st.integers(1, 60))
    numbers = st.integers(-2, 2)
    stored = np.array(
        data.draw(st.lists(st.tuples(numbers, numbers, st.just(1)), min_size=count, max_size=count)), dtype=np.float16
    )
    queries = np.array(
        data.draw(st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=3)), dtype=np.float32
    )
    order = data.draw(st.permutations(range(count)))
    ids = [f"{place:03d}" for place in order]
    k = data.draw(st.integers(1, 70))
    embeddings = publish_embeddings(stored, ids=ids, rows=17, similarity="inner_product", name=f"v{count}")
    index = ShardedIndex.open(make_index(embeddings, kind="flat", shards=data.draw(st.integers(1, min(5, count)))))
    expected = by_hand(stored, queries, k, ids)
    for searched in (index, ExactIndex.open(embeddings, block_rows=data.draw(st.integers(1, 70)))):
        hits = searched.search(queries, k)
        assert hits.rows.shape == (len(queries), k)
        assert [[row for row in rows if row >= 0] for rows in hits.rows.tolist()] == expected


def test_scores_do_not_depend_on_batch_shards_or_threads(publish_embeddings, make_index):
    stored = np.repeat(unit_vectors(40, 96), 3, axis=0)  # every vector three times: ties by id, to the last bit
    queries = np.random.default_rng(2).standard_normal((30, 96)).astype(np.float32)
    embeddings = publish_embeddings(stored)
    one = ShardedIndex.open(make_index(embeddings, kind="flat", shards=1, name="one"))
    four = ShardedIndex.open(make_index(embeddings, kind="flat", shards=4, name="four"), threads=2)
    together = one.search(queries, 7)
    for number, query in enumerate(queries):
        for index in (one, four):
            alone = index.search(query[None, :], 7)
            assert (alone.rows[0] == together.rows[number]).all()
            assert (alone.scores[0] == together.scores[number]).all()
    exact = ExactIndex.open(embeddings, block_rows=33).search(queries, 7)
    assert (exact.rows == together.rows).all() and (exact.scores == together.scores).all()


@pytest.mark.parametrize("kind", ["hnsw", "ivf-flat", "ivf-sq8", "IVF8,PQ12x4fs", "PCA16,PQ8x4"])
def test_approximate_kinds_find_most_of_what_exact_search_finds(publish_embeddings, make_index, kind):
    stored = unit_vectors(600, 24)
    embeddings = publish_embeddings(stored, rows=100)
    index = ShardedIndex.open(make_index(embeddings, kind=kind))
    queries = unit_vectors(20, 24, seed=5).astype(np.float32)
    found, truth = index.search(queries, 10).rows, ExactIndex.open(embeddings).search(queries, 10).rows
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), truth.tolist(), strict=True)])
    assert recall > (0.25 if "PQ" in kind else 0.9)
    assert not index.exact
    assert (index.private_bytes > 0) == ("fs" in kind) and index.mapped_bytes + index.private_bytes < index.index_bytes


def test_fewer_passages_than_k_leave_the_rest_empty(publish_embeddings, make_index):
    index = ShardedIndex.open(make_index(publish_embeddings(unit_vectors(3, 4)), shards=2))
    hits = index.search(np.ones((1, 4), dtype=np.float32), 5)
    assert (hits.rows[0] >= 0).tolist() == [True, True, True, False, False]
    assert hits.scores[0, 3:].tolist() == [-np.inf, -np.inf]


def test_query_vectors_that_do_not_fit_are_refused(publish_embeddings, make_index):
    index = ShardedIndex.open(make_index(publish_embeddings(unit_vectors(9, 4))))
    with pytest.raises(IncompatibleError, match=r"shape \[1, 5\] do not fit .* 4 dimensions"):
        index.search(np.ones((1, 5), dtype=np.float32), 1)
    with pytest.raises(InputError, match="Query vector 1 holds NaN"):
        index.search(np.array([[1, 0, 0, 0], [np.nan, 0, 0, 0]], dtype=np.float32), 1)
    with pytest.raises(InputError, match="k is 0"):
        index.search(np.ones((1, 4), dtype=np.float32), 0)


def test_no_queries_and_very_many(publish_embeddings, make_index):
    embeddings = publish_embeddings(unit_vectors(30, 4))
    many = np.random.default_rng(3).standard_normal((600, 4)).astype(np.float32)
    one_by_one = None
    for searched in (ShardedIndex.open(make_index(embeddings, kind="flat")), ExactIndex.open(embeddings)):
        assert searched.search(many[:0], 2).rows.shape == (0, 2)
        together = searched.search(many, 2)
        one_by_one = one_by_one or [searched.search(query[None, :], 2) for query in many]
        assert together.rows.tolist() == [hits.rows[0].tolist() for hits in one_by_one]
        assert together.scores.tolist() == [hits.scores[0].tolist() for hits in one_by_one]


def flip(path):
    with open(path, "r+b") as handle:
        handle.seek(-9, os.SEEK_END)
        byte = handle.read(1)
        handle.seek(-1, os.SEEK_CUR)
        handle.write(bytes([byte[0] ^ 16]))


def test_a_flipped_bit_names_the_shard_also_after_it_was_verified(publish_embeddings, make_index):
    artefact = make_index(publish_embeddings(unit_vectors(50, 8)), kind="flat")
    ShardedIndex.open(artefact)
    flip(artefact.local("shard-00001.faiss"))
    with pytest.raises(CorruptError, match=r"file shard-00001.faiss has checksum"):
        ShardedIndex.open(artefact)


def test_a_missing_shard_is_named(publish_embeddings, make_index):
    artefact = make_index(publish_embeddings(unit_vectors(50, 8)))
    artefact.local("shard-00000.faiss").unlink()
    with pytest.raises(CorruptError, match=r"file shard-00000.faiss is missing"):
        ShardedIndex.open(artefact)


def test_files_are_hashed_once_per_machine_and_version(publish_embeddings, make_index, monkeypatch):
    artefact = make_index(publish_embeddings(unit_vectors(50, 8)))
    ShardedIndex.open(artefact)
    assert any((cache_root() / "verified").iterdir())
    monkeypatch.setattr("retort.indexing.opening.hashlib.file_digest", lambda *_: pytest.fail("hashed again"))
    ShardedIndex.open(artefact)


def test_index_json_that_was_changed_is_not_believed(publish_embeddings, make_index):
    artefact = make_index(publish_embeddings(unit_vectors(50, 8)))
    path = artefact.local("index.json")
    description = json.loads(path.read_text())
    description["shards"].pop()
    path.write_text(json.dumps(description))
    with pytest.raises(CorruptError, match=r"file index.json has checksum"):
        ShardedIndex.open(artefact)


def test_another_kind_of_artefact_is_refused(publish_embeddings):
    with pytest.raises(InputError, match="of kind embeddings; an index is needed"):
        ShardedIndex.open(publish_embeddings(unit_vectors(5, 4)))


def test_passage_ids_are_found_across_the_pieces_they_were_written_in(tmp_path, store):
    tables = [lambda start=start: pa.table({"passage_id": [f"p{row}" for row in range(start, start + 7)]}) for start in range(0, 28, 7)]  # fmt: skip
    ids = PassageIds.open("pieces", tables, 28, "a test")
    assert len(ids) == 28
    assert ids.at(np.array([27, 0, 7, 6, 14, 14])) == ["p27", "p0", "p7", "p6", "p14", "p14"]
    assert ids.at(np.array([], dtype=np.int64)) == []
