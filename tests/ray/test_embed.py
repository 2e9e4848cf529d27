"""Embedding on real Ray, with a tiny real encoder."""

import numpy as np
import pyarrow as pa
import pytest

from retort.corpus.passages import content_hash
from retort.indexing.embed import EmbedConfig, embed
from retort.indexing.embedder import PartEmbedder
from retort.models.dual_encoder import DualEncoder
from retort.models.fakes import tiny_encoder
from retort.models.imports import encoder_artefact
from retort.resources import Resources
from retort.store import open_store
from retort.store.schemas import PASSAGE, part_name

TEXTS = [f"{'open a file and ' * (number % 7)}return {number}" for number in range(11)]


@pytest.fixture
def corpus():
    draft = open_store().draft("corpus", "docs", step="test")
    with draft:
        for number, start in enumerate(range(0, len(TEXTS), 4)):
            rows = [
                {
                    "passage_id": f"p{place}", "text": TEXTS[place], "title": "Files", "lang": "en", "section": "", "doc_id": "d",
                    "content_hash": content_hash("Files", TEXTS[place]), "fields": "{}",
                }
                for place in range(start, min(start + 4, len(TEXTS)))
            ]  # fmt: skip
            draft.write_table(part_name(number), pa.Table.from_pylist(rows, schema=PASSAGE))
        return draft.publish(rows=len(TEXTS), licences=["MIT"])


@pytest.fixture
def encoder(tmp_path):
    return tiny_encoder(tmp_path / "tiny", prefixes={"passage": "passage: "})


def test_every_passage_gets_its_vector_in_corpus_order(corpus, encoder):
    made = embed(
        EmbedConfig(
            corpus=corpus.uri, encoder=str(encoder), precision="fp32", resources=Resources(workers=2, threads=1)
        )
    )
    assert made.parts() == corpus.parts()
    table = made.table()
    assert table["passage_id"].to_pylist() == [f"p{place}" for place in range(11)]
    vectors = np.array(table["vector"].to_pylist(), dtype=np.float16)
    loaded = DualEncoder.load(encoder, device="cpu", precision="fp32")
    expected = loaded.encode([f"Files\n{text}" for text in TEXTS], side="passage")
    np.testing.assert_allclose(vectors.astype(np.float32), expected, atol=1e-3)
    assert made.metrics["passage_space"] == loaded.passage_space
    assert (made.metrics["count"], made.metrics["dimension"], made.metrics["similarity"]) == (11, 32, "cosine")
    assert made.input("encoder").kind == "encoder" and "MIT" in made.manifest.licences
    assert embed(EmbedConfig(corpus=corpus.uri, encoder=str(encoder), precision="fp32")).uri == made.uri


def test_a_killed_run_goes_on_and_ends_with_the_digest_of_an_unbroken_one(corpus, encoder, monkeypatch):
    config = EmbedConfig(corpus=corpus.uri, encoder=str(encoder), precision="fp32", resources=Resources(threads=1))
    whole = embed(config)
    store = open_store()
    store.area.delete_folder(f"embeddings/{whole.key}")
    inputs = {"corpus": corpus, "encoder": encoder_artefact(str(encoder), store)}
    draft = store.draft("embeddings", "x", step="embed", inputs=inputs, config=config.identity())
    assert draft.key == whole.key
    loaded = DualEncoder.load(encoder, precision="fp32")
    PartEmbedder(draft=draft, corpus=corpus, encoder=loaded)("part-00001.parquet")
    import retort.indexing.stages as stages

    asked = []
    real = stages.map_parts
    monkeypatch.setattr(
        stages,
        "map_parts",
        lambda worker, settings, parts, *a, **k: asked.extend(parts) or real(worker, settings, parts, *a, **k),
    )
    again = embed(config)
    assert asked == ["part-00000.parquet", "part-00002.parquet"]
    assert again.digest == whole.digest and again.metrics["count"] == 11
