"""Masks: passages that a release never answers, whatever its index still holds.

    publish_mask(store, passages)          a mask artefact of {passage id: why}
    read_mask(store, release)              the same back; {} where the release has none
    hidden_rows(store, release, corpus)    as rows of the release's corpus, for `ShardedIndex.hiding`

A deletion takes effect by promoting the same release with a mask: nothing is embedded or built for it. Two reasons are kept
apart: what a newer corpus no longer has is masked until the index of that corpus is promoted; what somebody asked to delete
stays masked over every corpus, older ones too, until it is ingested again after it had left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retort.corpus.lookup import Passages
from retort.releases.release import ArtefactRef, Release
from retort.store import Artefact, Store
from retort.store.manifest import hash_json

__all__ = ["Reason", "hidden_rows", "publish_mask", "read_mask", "requested"]

Reason = Literal["asked", "gone"]
"""asked: by `retort delete`; gone: from the corpus that is being re-indexed."""

MASK_FILE = "mask.parquet"


def publish_mask(store: Store, passages: Mapping[str, Reason], name: str) -> Artefact:
    """The mask of these passage ids; the same ids and reasons give the same artefact."""
    assert passages, "a release without masked passages has no mask"
    ids = sorted(passages)
    reasons = [passages[passage_id] for passage_id in ids]
    draft = store.draft("mask", name, step="mask", config={"passages": hash_json([ids, reasons])})
    done = draft.published
    if done is not None:
        return done
    with draft:
        done = draft.published
        if done is not None:
            return done
        draft.write_table(MASK_FILE, pa.table({"passage_id": pa.array(ids, pa.string()), "reason": pa.array(reasons)}))
        return draft.publish(rows=len(ids), personal_data="passage ids")


def read_mask(store: Store, release: Release) -> dict[str, Reason]:
    """Passage id -> why, for the release's mask. NotFoundError or CorruptError as `ArtefactRef.find`."""
    if release.masked is None:
        return {}
    mask = release.masked.find(store)
    mask.verify_file(MASK_FILE)
    table = mask.part(MASK_FILE)
    return dict(zip(table.column("passage_id").to_pylist(), table.column("reason").to_pylist(), strict=True))


def requested(mask: Mapping[str, Reason]) -> dict[str, Reason]:
    """The part of a mask that somebody asked for."""
    return {passage_id: reason for passage_id, reason in mask.items() if reason == "asked"}


def hidden_rows(store: Store, release: Release, corpus: Passages) -> NDArray[np.bool_] | None:
    """[rows of the corpus] true for masked passages; None for a release whose mask hides none of them."""
    ids = [passage_id for passage_id in read_mask(store, release) if passage_id in corpus]
    if not ids:
        return None
    hidden = np.zeros(len(corpus), dtype=np.bool_)
    hidden[corpus.rows(ids)] = True
    return hidden


def masked_ref(store: Store, passages: Mapping[str, Reason], name: str) -> ArtefactRef | None:
    """`publish_mask` as a release names it; None for no passages."""
    return ArtefactRef.of(publish_mask(store, passages, name)) if passages else None
