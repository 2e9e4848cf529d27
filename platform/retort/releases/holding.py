"""Which artefacts hold named passages, and which may quote them: what a purge has to look at.

holding(store, ids)          by kind: those with the passages, their vectors or their ids
quoting(store, affected)     what came, by whatever steps, from one of these
texts_of(corpora, ids)       titles and texts of the passages
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from retort.releases.masks import MASK_FILE
from retort.releases.retention import COLLECTED, shared_with
from retort.store import Artefact, Store

__all__ = ["holding", "quoting", "texts_of"]


def holding(store: Store, ids: set[str]) -> dict[str, list[Artefact]]:
    """Artefacts that hold the passages, their vectors or their ids: by corpus, then by what was made of it."""
    wanted = pa.array(sorted(ids), pa.string())

    def holds(item: Artefact) -> bool:
        return any(
            pc.any(pc.is_in(batch.column(0), value_set=wanted)).as_py()
            for batch in item.batches(columns=["passage_id"], rows=65536)
        )

    corpora = [item for item in store.list("corpus") if holds(item)]
    embeddings = [item for item in store.list("embeddings") if _made_from(item, corpora) or holds(item)]
    all_indexes = store.list("index")
    indexes = [item for item in all_indexes if _made_from(item, embeddings)]
    keys = {item.key for item in indexes}
    there = {item.key for item in all_indexes}
    # A partial index over a clean corpus may still use a shard that holds a purged vector; so may one whose shard is gone already.
    indexes += [
        item
        for item in all_indexes
        if item.key not in keys and any(key in keys or key not in there for key in shared_with(item))
    ]
    masks = [item for item in store.list("mask") if ids & set(item.part(MASK_FILE).column("passage_id").to_pylist())]
    return {"corpus": corpora, "embeddings": embeddings, "index": indexes, "mask": masks}


def _made_from(item: Artefact, sources: Sequence[Artefact]) -> bool:
    digests = {source.digest for source in sources}
    return any(record.digest in digests for record in item.manifest.inputs if record.role != "base")


def texts_of(corpora: Sequence[Artefact], ids: set[str]) -> list[str]:
    """Titles and texts of the passages, in every version."""
    wanted = pa.array(sorted(ids), pa.string())
    found: dict[str, None] = {}
    for corpus in corpora:
        for batch in corpus.batches(columns=["passage_id", "title", "text"]):
            own = batch.filter(pc.is_in(batch.column(0), value_set=wanted))
            for column in (1, 2):
                found.update(dict.fromkeys(own.column(column).to_pylist()))
    return list(found)


def quoting(store: Store, affected: dict[str, list[Artefact]]) -> list[str]:
    """Other artefacts that came, by whatever steps, from one that holds the passages."""
    reached = {item.digest for items in affected.values() for item in items}
    own = {item.uri for items in affected.values() for item in items}
    others = [item for item in store.list() if item.uri not in own]
    found: dict[str, str] = {}
    grown = True
    while grown:
        grown = False
        for item in others:
            if item.uri not in found and any(record.digest in reached for record in item.manifest.inputs):
                found[item.uri] = str(item)
                reached.add(item.digest)
                grown = True
    # The remade ones name what they replace as their input, and are clean.
    return sorted(text for uri, text in found.items() if uri.rsplit("/", 2)[1] not in COLLECTED)
