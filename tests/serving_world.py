"""A small world for the endpoint's tests: a corpus of 60 passages, a tiny random encoder, its embeddings and indices over them."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

TOPICS = ["file", "socket", "list", "path", "word", "query", "value", "name", "time", "set"]
ACTIONS = ["open", "read", "write", "find", "make", "show"]


@contextmanager
def opened_world(tmp_path_factory):
    """The store with all of it, for a module. The jobs' own workers run in this process: their actor pools are tested elsewhere, and
    take half a minute to start here."""
    with pytest.MonkeyPatch.context() as patch:
        yield _build(tmp_path_factory.mktemp("world"), patch)


def index_in(world, name, shards, **settings):
    """Another index of the world's embeddings."""
    from retort.indexing.build import IndexConfig, index

    return index(
        IndexConfig(embeddings=world.embeddings.uri, name=name, shards=shards, store=world.store.uri, **settings)
    )


def _build(folder, patch):
    from retort.corpus.ingest import IngestConfig, ingest
    from retort.indexing.build import IndexConfig, index
    from retort.indexing.embed import EmbedConfig, embed
    from retort.models.fakes import tiny_encoder
    from retort.models.imports import encoder_artefact
    from retort.store import open_store

    patch.setenv("RETORT_CACHE", str(folder / "cache"))
    patch.setattr(
        "retort.indexing.stages.map_parts",
        lambda worker, settings, parts, *others, **named: [dict(worker(**settings)(part)) for part in parts],
    )
    rows = [
        {"_id": f"{action}-{topic}", "title": topic, "text": f"How to {action} a {topic} with this {topic}."}
        for action in ACTIONS
        for topic in TOPICS
    ]
    (folder / "docs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    store = open_store(str(folder / "store"))
    shared = {"store": store.uri}
    made = ingest(IngestConfig(source=str(folder / "docs.jsonl"), name="docs", make_queries=False, **shared))
    tiny_encoder(folder / "tiny", [*TOPICS, *ACTIONS, "how", "with", "this"])
    encoder = encoder_artefact(str(folder / "tiny"), store)
    embeddings = embed(EmbedConfig(corpus=made["corpus"].uri, encoder=encoder.uri, **shared))
    made_index = index(IndexConfig(embeddings=embeddings.uri, name="docs-index", shards=2, **shared))
    return SimpleNamespace(
        folder=folder, store=store, corpus=made["corpus"], encoder=encoder, embeddings=embeddings, index=made_index
    )


def tuned_encoder(world, name="tuned", seed=5, size=0.02):
    """An encoder artefact of the same passage space, whose weights differ a little."""
    from retort.models.dual_encoder import DualEncoder
    from retort.models.imports import encoder_artefact

    encoder = DualEncoder.load(world.encoder.local(), device="cpu", precision="fp32")
    space = encoder.passage_space
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in encoder.model.parameters():
            weight += size * weight.abs().mean() * torch.randn(weight.shape, generator=generator)
    encoder.save(world.folder / name, passage_space=space)
    return encoder_artefact(str(world.folder / name), world.store)
