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
from retort.releases.purging import purge
from retort.releases.reindex import ReindexConfig, reindex
from retort.releases.release import load_release
from retort.resources import Resources
from retort.store import open_store

TWO = Resources(workers=2, threads=1)


@pytest.fixture
def store(tmp_path):
    """A release `live` over 80 passages, made by workers."""
    store = open_store()
    tiny_encoder(tmp_path / "tiny", WORDS)
    corpus = publish_corpus(store, passages(range(80)))
    config = EmbedConfig(corpus=corpus.uri, encoder=str(tmp_path / "tiny"), precision="fp32", resources=TWO)
    made = index(IndexConfig(embeddings=embed(config).uri, kind="IVF4,Flat", shards=2, resources=TWO))
    promote(store, next_release(store, "live", index=made))
    return store


def test_workers_take_over_vectors_and_build_compactions_and_purged_indexes(store, monkeypatch):
    monkeypatch.setattr("retort.indexing.embed.ENCODED_HERE", 0)  # even a few go to the workers
    partial = reindex(
        ReindexConfig(
            release="live", corpus=new_corpus(store, range(3, 85), changed=[40]).uri, min_recall=0.5, resources=TWO
        )
    )
    assert partial["index"].manifest.step == "delta" and partial["embeddings"].metrics["encoded"] == 6
    before = answers(store)
    whole = reindex(ReindexConfig(release="live", compact=True, min_recall=0.5, resources=TWO))
    assert whole["index"].manifest.step == "index" and whole["index"].metrics["kind"] == "IVF4,Flat"
    assert sum(len(set(a) & set(b)) for a, b in zip(before, answers(store), strict=True)) > 0.6 * sum(map(len, before))
    purge(store, ["p040"], resources=TWO)
    assert load_release(store, "live").index.find(store).metrics["count"] == 81
    assert all("p040" not in ids for ids in answers(store, k=80))
