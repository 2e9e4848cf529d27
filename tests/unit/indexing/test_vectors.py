import pickle

import numpy as np
import pytest

from retort.errors import CorruptError, InputError
from retort.indexing.vectors import VectorStore, facts, read_part

from .conftest import unit_vectors


def test_cosine_vectors_have_length_one_again_after_float16(publish_embeddings):
    stored = unit_vectors(50, 24)
    embeddings = publish_embeddings(stored)
    ids, vectors = read_part(embeddings, "part-00001.parquet", 24, "cosine", 2, 7)
    assert ids.to_pylist() == [f"p{row:04d}" for row in range(42, 47)]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-7)
    plain = stored[42:47].astype(np.float64)
    np.testing.assert_allclose(vectors, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6)


def test_inner_product_vectors_are_left_as_they_are(publish_embeddings):
    stored = np.array([[3, 4], [0.5, 0]], dtype=np.float16)
    embeddings = publish_embeddings(stored, similarity="inner_product")
    assert VectorStore.open(embeddings).rows(slice(0, 2)).tolist() == [[3, 4], [0.5, 0]]


def test_a_vector_is_the_same_however_many_are_read_with_it(publish_embeddings):
    store = VectorStore.open(publish_embeddings(unit_vectors(90, 37)))
    whole = store.rows(slice(0, 90))
    for start, block in store.blocks(13):
        assert (block == whole[start : start + 13]).all()
    assert (pickle.loads(pickle.dumps(store)).rows(np.array([5, 77])) == whole[[5, 77]]).all()


@pytest.mark.parametrize(
    ("value", "what"), [(0.0, "is zero"), (np.nan, "holds NaN or infinity"), (np.inf, "holds NaN or infinity")]
)
def test_unfit_vectors_name_their_passage(publish_embeddings, value, what):
    vectors = unit_vectors(50, 8)
    vectors[44] = value
    with pytest.raises(InputError, match=rf"part-00001.parquet: the vector of passage 'p0044' {what}"):
        VectorStore.open(publish_embeddings(vectors))


def test_another_dimension_is_told(publish_embeddings):
    with pytest.raises(InputError, match="expected float16 vectors of 9 dimensions"):
        VectorStore.open(publish_embeddings(unit_vectors(5, 8), metrics={"dimension": 9}))


def test_a_manifest_that_counts_wrong_is_told(publish_embeddings):
    with pytest.raises(CorruptError, match="has 50 vectors, its manifest says 49"):
        VectorStore.open(publish_embeddings(unit_vectors(50, 8), metrics={"count": 49}))


def test_another_kind_of_artefact_is_refused(publish_corpus):
    with pytest.raises(InputError, match="of kind corpus; embeddings are needed"):
        facts(publish_corpus([("a", "", "x")]))
