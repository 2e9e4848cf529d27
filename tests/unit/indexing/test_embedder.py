import numpy as np
import pytest

from retort.errors import InputError
from retort.indexing.embedder import PartEmbedder
from retort.models.fakes import FakeEncoder
from retort.store.schemas import embedding_schema

PASSAGES = [
    ("a", "Sorting", "how a list is sorted"),
    ("b", "", "a short one"),
    ("c", "Files", "open and close"),
    ("d", "", "x"),
]


@pytest.fixture
def draft(store):
    return store.draft("embeddings", "e", step="test")


def test_a_part_mirrors_the_corpus_part(publish_corpus, draft):
    corpus = publish_corpus(PASSAGES, rows=2)
    encoder = FakeEncoder(dimension=16)
    assert PartEmbedder(draft=draft, corpus=corpus, encoder=encoder)("part-00001.parquet")["passages"] == 2
    table = draft.read_table("part-00001.parquet")
    assert table.schema.equals(embedding_schema(16))
    assert table.column("passage_id").to_pylist() == ["c", "d"]
    assert (
        table.column("content_hash").to_pylist() == corpus.part("part-00001.parquet").column("content_hash").to_pylist()
    )
    expected = encoder.encode(["Files\nopen and close", "x"], side="passage").astype(np.float16)
    assert (np.array(table.column("vector").to_pylist(), dtype=np.float16) == expected).all()
    assert not draft.has("part-00000.parquet")


class Spoilt(FakeEncoder):
    def __init__(self, value):
        super().__init__(dimension=4)
        self.value = value

    def encode(self, texts, side="passage", token_budget=None, progress=None):
        vectors = super().encode(texts, side)
        vectors[1] = self.value
        return vectors


@pytest.mark.parametrize(("value", "what"), [(0.0, "is zero"), (np.nan, "NaN"), (1e6, "infinity")])
def test_vectors_that_cannot_be_searched_are_refused_and_nothing_is_written(publish_corpus, draft, value, what):
    corpus = publish_corpus(PASSAGES)
    with pytest.raises(InputError, match=f"passage 'b' .*{what}"):
        PartEmbedder(draft=draft, corpus=corpus, encoder=Spoilt(value))("part-00000.parquet")
    assert draft.files() == []
