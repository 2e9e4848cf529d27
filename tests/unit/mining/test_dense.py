import numpy as np
import pyarrow as pa
import pytest

from retort.errors import IncompatibleError
from retort.indexing.exact import ExactIndex
from retort.mining.dense import DenseSearch
from retort.models.fakes import FakeEncoder
from retort.store.schemas import embedding_schema

TEXTS = {"a": "sort a list", "b": "open a file", "c": "close the file", "d": "file"}


@pytest.fixture
def publish_vectors(store):
    def publish(encoder):
        half = encoder.encode(list(TEXTS.values())).astype(np.float16)
        draft = store.draft("embeddings", "e", step="test", config={"space": encoder.passage_space})
        with draft:
            column = pa.FixedSizeListArray.from_arrays(pa.array(half.reshape(-1)), encoder.dimension)
            arrays = [pa.array(list(TEXTS)), column, pa.array(["0"] * len(TEXTS))]
            draft.write_table(
                "part-00000.parquet", pa.Table.from_arrays(arrays, schema=embedding_schema(encoder.dimension))
            )
            facts = {
                "count": 4,
                "dimension": encoder.dimension,
                "similarity": "cosine",
                "passage_space": encoder.passage_space,
            }
            return draft.publish(rows=4, metrics=facts)

    return publish


def test_texts_of_the_same_words_are_found_first_and_with_their_cosine(publish_vectors):
    encoder = FakeEncoder()
    search = DenseSearch(encoder, ExactIndex.open(publish_vectors(encoder)))
    ids, scores = search.search(["file", "list a sort"], 2)
    assert ids[0][0] == "d" and ids[1][0] == "a"
    assert scores[0][0] == pytest.approx(1, abs=1e-5) and scores[1][0] == pytest.approx(1, abs=1e-5)


def test_fewer_passages_than_wanted(publish_vectors):
    encoder = FakeEncoder()
    ids, scores = DenseSearch(encoder, ExactIndex.open(publish_vectors(encoder))).search(["file"], 9)
    assert sorted(ids[0]) == ["a", "b", "c", "d"] and len(scores[0]) == 4 and np.isfinite(scores[0]).all()


def test_an_encoder_of_another_space_is_refused(publish_vectors):
    index = ExactIndex.open(publish_vectors(FakeEncoder()))
    with pytest.raises(IncompatibleError, match="passage space"):
        DenseSearch(FakeEncoder(prefixes={"passage": "passage: "}), index)
