"""Corpora and embeddings made in a moment, shared by the tests of indexing."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from retort.corpus.passages import content_hash
from retort.indexing.build import IndexConfig, index
from retort.store import open_store
from retort.store.schemas import PASSAGE, embedding_schema, part_name


@pytest.fixture
def store():
    return open_store()


@pytest.fixture
def publish_corpus(store):
    """Publish passages [(id, title, text)] cut into parts of `rows`."""

    def publish(passages, rows=4, name="docs"):
        draft = store.draft("corpus", name, step="test", config={"name": name, "n": len(passages)})
        with draft:
            for number, start in enumerate(range(0, len(passages), rows)):
                table = [
                    {
                        "passage_id": id_, "text": text, "title": title, "lang": "en", "section": "", "doc_id": id_,
                        "content_hash": content_hash(title, text), "fields": "{}",
                    }
                    for id_, title, text in passages[start : start + rows]
                ]  # fmt: skip
                draft.write_table(part_name(number), pa.Table.from_pylist(table, schema=PASSAGE))
            return draft.publish(rows=len(passages), licences=["MIT"], personal_data="none")

    return publish


@pytest.fixture
def publish_embeddings(store):
    """Publish a float matrix as embeddings, in parts of `rows`; `metrics` replaces what the manifest says."""

    def publish(vectors, ids=None, rows=40, similarity="cosine", name="vectors", metrics=None, **more):
        half = np.asarray(vectors, dtype=np.float16)
        ids = ids or [f"p{row:04d}" for row in range(len(half))]
        facts = {"count": len(half), "dimension": half.shape[1], "similarity": similarity, "passage_space": "s" * 64}
        draft = store.draft(
            "embeddings",
            name,
            step="test",
            config={"name": name, "bytes": half.tobytes().hex()[:4000], "ids": ids[:50]},
        )
        with draft:
            for number, start in enumerate(range(0, len(half), rows)):
                block = half[start : start + rows]
                column = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), half.shape[1])
                hashes = pa.array(["0" * 16] * len(block))
                table = pa.Table.from_arrays(
                    [pa.array(ids[start : start + rows]), column, hashes], schema=embedding_schema(half.shape[1])
                )
                draft.write_table(part_name(number), table)
            return draft.publish(rows=len(half), metrics=facts | (metrics or {}), **more)

    return publish


@pytest.fixture
def make_index(without_ray):
    """Build an index over an embeddings artefact in this process."""

    def make(embeddings, **fields):
        return index(IndexConfig(embeddings=embeddings.uri, **fields))

    return make


def unit_vectors(rows, dimension, seed=0):
    """Random unit vectors, as float16 holds them."""
    vectors = np.random.default_rng(seed).standard_normal((rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
