"""Shared by the tests of releases."""

import pytest

from retort.indexing.build import IndexConfig, index
from retort.indexing.embed import EmbedConfig, embed
from retort.models.fakes import tiny_encoder
from retort.releases.compose import next_release
from retort.releases.promote import promote
from retort.store import open_store

from .worlds import WORDS, passages, publish_corpus


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def world(store, tmp_path, without_ray, monkeypatch):
    """A release `live` over 80 passages."""
    monkeypatch.setenv("RETORT_STORE", store.uri)
    tiny_encoder(tmp_path / "tiny", WORDS)
    corpus = publish_corpus(store, passages(range(80)))
    embeddings = embed(EmbedConfig(corpus=corpus.uri, encoder=str(tmp_path / "tiny"), precision="fp32"))
    made = index(IndexConfig(embeddings=embeddings.uri, kind="flat", shards=2, name="docs-index"))
    promote(store, next_release(store, "live", index=made))
    return made
