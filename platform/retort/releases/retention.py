"""Old versions: kept for a time, then collected, and only where nothing serves or needs them.

    plan_collection(store, retention_days) -> Collection     what would go, and what was kept and why
    carry_out(store, collection)                             deletes it, and its copies in this machine's node cache

Only versions in the life of an index are ever collected: corpora, embeddings, indexes and masks whose name has gone on to a
newer one. Kept are: what a live replica announced, what a release serves or served within the retention time, every
artefact that still holds its name, all that these were made from, and indexes whose shards another one uses.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from retort.releases.promote import Move, history, release_names
from retort.releases.release import ArtefactRef, release_pointer
from retort.releases.usage import in_use, named_by
from retort.store import KINDS, Artefact, Store, cache_root
from retort.store.manifest import MANIFEST

__all__ = ["Collection", "carry_out", "clean_cache", "delete_artefact", "plan_collection", "shared_with"]

COLLECTED = ("index", "embeddings", "mask", "corpus")
"""In the order of deletion: what is made from something goes before it."""


@dataclass(frozen=True)
class Collection:
    """What may go: artefacts, and versions of releases that name them."""

    artefacts: list[Artefact]
    versions: list[tuple[str, int]] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)  # uri -> why

    @property
    def size_bytes(self) -> int:
        """What deleting it frees."""
        return sum(item.size_bytes for item in self.artefacts)


def plan_collection(store: Store, retention_days: float, now: datetime | None = None) -> Collection:
    """Decide what may go; deletes nothing."""
    cutoff = (now or datetime.now(UTC)) - timedelta(days=retention_days)
    everything = {(item.kind, item.key): item for item in store.list()}
    by_digest: dict[str, list[Artefact]] = {}
    for item in everything.values():
        by_digest.setdefault(item.digest, []).append(item)
    keep = _Keep(store, everything)
    for digest in in_use(store):
        for item in by_digest.get(digest, []):
            keep.add(item, "a replica serves it")
    old_versions = []
    for name in release_names(store):
        moves = history(store, name)
        for place, move in enumerate(moves):
            if place and _replaced(moves, place) < cutoff:
                old_versions.append((name, move.version))
                continue
            keep.refs(named_by(move.release), f"release {name} version {move.version}")
    for kind in KINDS:
        if kind == "mask":
            continue  # named after its release, which is what keeps it
        for name, key in store.names(kind).items():
            found = everything.get((kind, key))
            if found is not None:
                keep.add(found, f"{kind}/{name} is its name")
    gone = [
        item
        for kind in COLLECTED
        for item in everything.values()
        if item.kind == kind and item.uri not in keep.why and datetime.fromisoformat(item.manifest.created) < cutoff
    ]
    return Collection(gone, old_versions, keep.why)


def carry_out(store: Store, collection: Collection) -> None:
    """Delete it: versions of releases first, so that none can go back to what is no longer there."""
    for name, version in collection.versions:
        release_pointer(store, name).forget(version)
    for item in collection.artefacts:
        delete_artefact(item)
    clean_cache([item.digest for item in collection.artefacts])


def delete_artefact(artefact: Artefact) -> None:
    """Delete all its files, the manifest first: at no moment does half an artefact look like a whole one."""
    artefact.area.delete(MANIFEST)
    artefact.area.delete_folder()


def clean_cache(digests: Sequence[str]) -> int:
    """Delete this machine's copies; their names begin with the digest (or its first half)."""
    cleaned = 0
    beginnings = tuple(digest[:32] for digest in digests)
    for folder in cache_root().glob("*"):
        for path in folder.glob("*") if folder.is_dir() else []:
            if beginnings and path.name.startswith(beginnings):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                cleaned += 1
    return cleaned


def shared_with(index: Artefact) -> list[str]:
    """Keys of the indexes whose shards a partial index uses."""
    if index.manifest.step != "delta":
        return []
    entries = index.json("index.json")["shards"]
    return sorted({entry["artefact"]["key"] for entry in entries if "artefact" in entry})


class _Keep:
    """Artefacts to keep with all that they need; `why` is by URI."""

    def __init__(self, store: Store, everything: dict[tuple[str, str], Artefact]) -> None:
        self._store, self._everything = store, everything
        self.why: dict[str, str] = {}
        self._followed: set[str] = set()

    def refs(self, refs: Iterable[ArtefactRef], why: str) -> None:
        for ref in refs:
            found = self._everything.get((ref.kind, ref.key))
            if found is not None:
                self.add(found, why)

    def add(self, item: Artefact, why: str) -> None:
        self.why.setdefault(item.uri, why)
        if item.uri in self._followed:
            return
        self._followed.add(item.uri)
        for record in item.manifest.inputs:
            found = self._everything.get((record.kind, record.key))
            # What an index was extended from is needed only for its shards, which the next lines see to.
            if found is not None and not (item.kind == "index" and record.role == "base"):
                self.add(found, f"{item} was made from it")
        for key in {*shared_with(item), *([item.metrics["whole"]] if "whole" in item.metrics else [])}:
            found = self._everything.get(("index", key))
            if found is not None:
                self.why.setdefault(found.uri, f"{item} uses its shards or settings")


def _replaced(moves: list[Move], place: int) -> datetime:
    """When the version at `place` (newest first) was replaced: the moment that the next one was moved to."""
    following = moves[place - 1].release
    return datetime.fromisoformat(following.moved or following.created)
