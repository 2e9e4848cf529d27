"""Building shards on real Ray."""

import numpy as np
import pyarrow as pa
import pytest

from retort.errors import InputError
from retort.indexing.build import IndexConfig, index
from retort.indexing.exact import ExactIndex
from retort.indexing.search import ShardedIndex
from retort.resources import Resources
from retort.store import open_store
from retort.store.schemas import embedding_schema, part_name

TWO = Resources(workers=2, threads=1)


def publish(vectors, name="v"):
    half = np.asarray(vectors, dtype=np.float16)
    draft = open_store().draft("embeddings", name, step="test", config={"name": name})
    with draft:
        for number, start in enumerate(range(0, len(half), 150)):
            block = half[start : start + 150]
            column = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), half.shape[1])
            ids = pa.array([f"p{start + place:04d}" for place in range(len(block))])
            arrays = [ids, column, pa.array(["0"] * len(block))]
            draft.write_table(part_name(number), pa.Table.from_arrays(arrays, schema=embedding_schema(half.shape[1])))
        facts = {"count": len(half), "dimension": half.shape[1], "similarity": "cosine", "passage_space": "s"}
        return draft.publish(rows=len(half), metrics=facts)


@pytest.fixture
def vectors():
    return np.random.default_rng(0).standard_normal((500, 16))


def test_shards_of_two_workers_and_a_trained_quantiser_are_searched_as_one(vectors, tmp_path, monkeypatch):
    embeddings = publish(vectors)
    made = index(IndexConfig(embeddings=embeddings.uri, kind="IVF8,Flat", shards=3, resources=TWO))
    opened = ShardedIndex.open(made)
    queries = np.random.default_rng(1).standard_normal((10, 16)).astype(np.float32)
    # All 8 lists are probed, so that inverted lists are exact.
    assert (opened.search(queries, 10).rows == ExactIndex.open(embeddings).search(queries, 10).rows).all()
    assert made.metrics["own_vectors_found"] == 1.0
    assert index(IndexConfig(embeddings=embeddings.uri, kind="IVF8,Flat", shards=3)).uri == made.uri
    monkeypatch.setenv("RETORT_STORE", str(tmp_path / "elsewhere"))
    one = IndexConfig(embeddings=publish(vectors).uri, kind="IVF8,Flat", shards=3, resources=Resources(threads=1))
    assert index(one).digest == made.digest  # the number of workers changes no byte


def test_a_workers_refusal_arrives_as_one_line(vectors):
    vectors[480] = np.nan
    with pytest.raises(InputError, match="passage 'p0480' holds NaN"):
        index(IndexConfig(embeddings=publish(vectors).uri, kind="flat", resources=Resources(threads=1)))
    assert open_store().list("index") == []
