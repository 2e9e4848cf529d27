"""Re-indexing with real Ray: parts embedded by workers that take over vectors, and a compaction built by them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from unit.releases.worlds import WORDS, answers, new_corpus, passages, publish_corpus

from retort.indexing.build import IndexConfig, index
from retort.indexing.embed import EmbedConfig, embed
from retort.models.fakes import tiny_encoder
from retort.releases.compose import next_release
from retort.releases.promote import promote
from retort.releases.reindex import ReindexConfig, reindex
from retort.releases.release import load_release
from retort.resources import Resources
from retort.store import open_store

TWO = Resources(workers=2, threads=1)


@pytest.fixture
def store(tmp_path):
    """A release `live` over 80 passages, made in this process: what is tested comes after it."""
    import retort.indexing.stages as stages

    real = stages.map_parts
    stages.map_parts = lambda worker, settings, parts, *_, **__: [dict(worker(**settings)(part)) for part in parts]
    try:
        store = open_store()
        tiny_encoder(tmp_path / "tiny", WORDS)
        corpus = publish_corpus(store, passages(range(80)))
        embeddings = embed(EmbedConfig(corpus=corpus.uri, encoder=str(tmp_path / "tiny"), precision="fp32"))
        made = index(IndexConfig(embeddings=embeddings.uri, kind="flat", shards=2))
        promote(store, next_release(store, "live", index=made))
    finally:
        stages.map_parts = real
    return store


def test_workers_take_over_vectors_and_build_a_compaction(store, monkeypatch):
    monkeypatch.setattr("retort.indexing.embed.ENCODED_HERE", 0)  # even a few go to the workers
    corpus = new_corpus(store, range(3, 85), changed=[40])
    partial = reindex(ReindexConfig(release="live", corpus=corpus.uri, resources=TWO))
    assert partial["index"].manifest.step == "delta" and partial["embeddings"].metrics["encoded"] == 6
    before = answers(store)
    whole = reindex(ReindexConfig(release="live", compact=True, resources=TWO))
    assert whole["index"].manifest.step == "index" and load_release(store, "live").index.digest == whole["index"].digest
    assert answers(store) == before
