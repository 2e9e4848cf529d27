"""Small published artefacts that belong together: a corpus, its embeddings by a fake or tiny encoder, an index."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from retort.corpus.lookup import Passages
from retort.corpus.passages import content_hash, passage_text
from retort.indexing.build import IndexConfig, index
from retort.indexing.search import ShardedIndex
from retort.models.dual_encoder import DualEncoder
from retort.models.fakes import FakeEncoder
from retort.releases.masks import hidden_rows
from retort.releases.release import load_release, make_release
from retort.store.schemas import PASSAGE, embedding_schema, part_name


def passages_table(passages):
    """[(id, text)] as a table of the corpus's columns."""
    rows = [
        {
            "passage_id": id_, "text": text, "title": "", "lang": "en", "section": "", "doc_id": id_,
            "content_hash": content_hash("", text), "fields": "{}",
        }
        for id_, text in passages
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=PASSAGE)


def publish_corpus(store, passages, name="docs", rows=16):
    """Publish [(id, text)] as a corpus in parts of `rows`."""
    digest = content_hash("", repr(passages))
    draft = store.draft("corpus", name, step="test", config={"name": name, "digest": digest})
    if draft.published:
        return draft.published
    with draft:
        for number, start in enumerate(range(0, len(passages), rows)):
            draft.write_table(part_name(number), passages_table(passages[start : start + rows]))
        return draft.publish(rows=len(passages), licences=["MIT"], personal_data="none")


def publish_encoder(store, name="fake", space=None):
    """An encoder artefact that only has a name and a passage space (nobody loads it)."""
    draft = store.draft("encoder", name, step="test", config={"name": name})
    if draft.published:
        return draft.published
    with draft:
        draft.write_json("config.json", {"name": name})
        return draft.publish(metrics={"passage_space": space or FakeEncoder(32).passage_space})


def publish_embeddings(store, corpus, encoder, name="docs-fake", dimension=32, config=None):
    """What `embed` makes, by FakeEncoder."""
    fake = FakeEncoder(dimension)
    draft = store.draft(
        "embeddings", name, step="embed", inputs={"corpus": corpus, "encoder": encoder}, config=config or {"seed": 13}
    )
    if draft.published:
        return draft.published
    with draft:
        for part in corpus.parts():
            table = corpus.part(part)
            texts = [
                passage_text(title, text)
                for title, text in zip(table["title"].to_pylist(), table["text"].to_pylist(), strict=True)
            ]
            half = fake.encode(texts).astype(np.float16)
            column = pa.FixedSizeListArray.from_arrays(pa.array(half.reshape(-1)), dimension)
            columns = [table.column("passage_id"), column, table.column("content_hash")]
            draft.write_table(part, pa.Table.from_arrays(columns, schema=embedding_schema(dimension)))
        facts = {
            "count": corpus.manifest.rows,
            "dimension": dimension,
            "similarity": "cosine",
            "passage_space": fake.passage_space,
        }
        return draft.publish(rows=corpus.manifest.rows, metrics=facts)


def build(store, passages, kind="flat", shards=2, name="docs"):
    """Corpus, embeddings and index; returns the index. Needs `without_ray`."""
    corpus = publish_corpus(store, passages, name)
    embeddings = publish_embeddings(store, corpus, publish_encoder(store), f"{name}-fake")
    return index(IndexConfig(store=store.uri, embeddings=embeddings.uri, kind=kind, shards=shards, name=name))


def release_of(store, passages, name="live", **fields):
    """A release over a new index of these passages (not promoted)."""
    return make_release(store, build(store, passages, **fields), name=name)


WORDS = ["file", "socket", "list", "path", "word", "query", "value", "name", "time", "set", "open", "read", "write"]


def passages(numbers, version=0):
    return [(f"p{n:03d}", f"{WORDS[n % 13]} {WORDS[(n // 13) % 13]} number {n} of version {version}") for n in numbers]


def version_of(number):
    """Passages of the `number`-th version of a corpus: a little changes from each to the next."""
    gone = {(7 * step) % 80 for step in range(number)}
    listed = [(id_, text) for id_, text in passages(range(80)) if int(id_[1:]) not in gone]
    edited = [
        (id_, f"{text} edited in {number}") if int(id_[1:]) % 20 == number % 20 else (id_, text) for id_, text in listed
    ]
    return edited + passages(range(100, 100 + 2 * number))


def answers(store, name="live", k=8):
    """Passage ids that the release answers a few queries with."""
    release = load_release(store, name)
    corpus = Passages.open(release.corpus.find(store))
    searched = ShardedIndex.open(release.index.find(store))
    hidden = hidden_rows(store, release, corpus)
    searched = searched if hidden is None else searched.hiding(hidden)
    encoder = DualEncoder.load(release.encoders[release.default_encoder].find(store).local(), precision="fp32")
    rows = searched.search(encoder.encode([f"{a} {b}" for a in WORDS[:4] for b in WORDS[4:7]], "query"), k).rows
    return [corpus.ids_at(own[own >= 0]) for own in rows]


def new_corpus(store, numbers, changed=(), name="docs"):
    listed = passages([n for n in numbers if n not in changed]) + passages(changed, version=1)
    return publish_corpus(store, listed, name=name)
