"""Embedding a corpus that is mostly an earlier one."""

import numpy as np
import pytest

from retort.errors import IncompatibleError, NotFoundError
from retort.indexing.embed import EmbedConfig, embed
from retort.models.dual_encoder import DualEncoder
from retort.models.fakes import tiny_encoder

PASSAGES = [(f"p{number}", "Files", f"open a file and return {number}") for number in range(30)]
CHANGED = [
    ("p99", "", "a new text"),
    *PASSAGES[3:9],
    ("p9", "", "another text now"),
    *PASSAGES[10:],
    ("copy", *PASSAGES[4][1:]),
]


@pytest.fixture
def encoder(tmp_path):
    return tiny_encoder(tmp_path / "tiny")


@pytest.fixture
def earlier(publish_corpus, encoder, without_ray):
    return embed(EmbedConfig(corpus=publish_corpus(PASSAGES, name="old").uri, encoder=str(encoder), precision="fp32"))


def vectors(artefact):
    return np.stack(artefact.table()["vector"].to_numpy(zero_copy_only=False)), artefact.table()[
        "passage_id"
    ].to_pylist()


def test_unchanged_passages_keep_their_bytes_and_only_the_rest_is_encoded(
    publish_corpus, encoder, earlier, monkeypatch
):
    corpus = publish_corpus(CHANGED, rows=7, name="new")
    asked = []
    real = DualEncoder.encode
    monkeypatch.setattr(
        DualEncoder, "encode", lambda self, texts, *a, **k: asked.extend(texts) or real(self, texts, *a, **k)
    )
    made = embed(EmbedConfig(corpus=corpus.uri, encoder=str(encoder), precision="fp32", reuse=earlier.uri))
    assert sorted(asked) == ["a new text", "another text now"]
    (old, old_ids), (new, ids) = vectors(earlier), vectors(made)
    assert ids == [id_ for id_, _, _ in CHANGED] and made.parts() == corpus.parts()
    for row, id_ in enumerate(ids):
        if id_ not in ("p99", "p9"):
            assert (new[row] == old[old_ids.index("p4" if id_ == "copy" else id_)]).all()
    expected = DualEncoder.load(encoder, precision="fp32").encode([f"{t}\n{x}" if t else x for _, t, x in CHANGED])
    assert np.abs(new - expected).max() < 1e-3
    assert (made.metrics["reused"], made.metrics["encoded"]) == (len(CHANGED) - 2, 2)
    assert made.metrics["passages_per_worker_s"] == earlier.metrics["passages_per_worker_s"]


def test_reuse_is_not_part_of_the_key(publish_corpus, encoder, earlier):
    corpus = publish_corpus(CHANGED, name="new")
    made = embed(EmbedConfig(corpus=corpus.uri, encoder=str(encoder), precision="fp32", reuse=earlier.uri))
    assert embed(EmbedConfig(corpus=corpus.uri, encoder=str(encoder), precision="fp32")).uri == made.uri


def test_only_deletions_need_no_encoder_at_all(publish_corpus, encoder, earlier, monkeypatch):
    monkeypatch.setattr(DualEncoder, "load", lambda *_, **__: pytest.fail("weights were loaded"))
    corpus = publish_corpus(PASSAGES[5:], name="fewer")
    made = embed(
        EmbedConfig(corpus=corpus.uri, encoder=earlier.input("encoder").uri, precision="fp32", reuse=earlier.uri)
    )
    assert made.metrics["encoded"] == 0 and made.metrics["count"] == 25
    assert (vectors(made)[0] == vectors(earlier)[0][5:]).all()


def test_embeddings_of_another_encoder_or_of_other_settings_are_refused(publish_corpus, tmp_path, encoder, earlier):
    corpus = publish_corpus(CHANGED, name="new")
    other = tiny_encoder(tmp_path / "other", seed=1)
    with pytest.raises(IncompatibleError, match=r"was made by tiny .*not by other .*cannot be reused"):
        embed(EmbedConfig(corpus=corpus.uri, encoder=str(other), precision="fp32", reuse=earlier.uri))
    with pytest.raises(IncompatibleError, match=r"other settings \(precision\)"):
        embed(EmbedConfig(corpus=corpus.uri, encoder=str(encoder), precision="bf16", reuse=earlier.uri))


def test_a_source_whose_corpus_is_gone_cannot_be_compared(publish_corpus, encoder, earlier, store):
    corpus = publish_corpus(CHANGED, name="new")
    store.area.delete_folder(f"corpus/{earlier.input('corpus').key}")
    with pytest.raises(NotFoundError, match="was made from corpus/old"):
        embed(EmbedConfig(corpus=corpus.uri, encoder=str(encoder), precision="fp32", reuse=earlier.uri))


def test_too_many_new_passages_go_to_the_workers(publish_corpus, encoder, earlier, monkeypatch):
    monkeypatch.setattr("retort.indexing.embed.ENCODED_HERE", 1)
    corpus = publish_corpus(CHANGED, rows=7, name="new")
    made = embed(EmbedConfig(corpus=corpus.uri, encoder=str(encoder), precision="fp32", reuse=earlier.uri))
    assert made.metrics["encoded"] == 2 and (vectors(made)[0][1:7] == vectors(earlier)[0][3:9]).all()
