"""Taking named passages out of every version, for good: a legal deletion.

    purge(store, ids, ...) -> Purged     runs again as often as it must: what is done is found done

In this order, so that a kill at any moment leaves every release whole and the next run finishes:

    1. corpora, embeddings and indexes that are served or named are made again without the passages
    2. releases are moved to them; masks and canaries forget the ids
    3. versions of releases that name what will be deleted are taken from their history
    4. a record of digests (no ids) is kept, then the old artefacts go, unfinished ones that nobody is making, and their copies
       in this machine's node cache

Other machines' caches are cleaned by the same command there: the record tells it what to look for. What else may quote the
passages (queries made of them, judgements, encoders trained on them, reports) is not touched but listed.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from retort.errors import BusyError, InputError, NotFoundError
from retort.indexing.build import IndexConfig, index
from retort.progress import QUIET, Progress
from retort.releases.holding import holding, quoting, texts_of
from retort.releases.masks import masked_ref, read_mask
from retort.releases.promote import check_whole, history, promote, release_names
from retort.releases.reindex import release_lock
from retort.releases.release import ArtefactRef, Canary, Release, release_at, release_pointer
from retort.releases.retention import COLLECTED, clean_cache, delete_artefact
from retort.releases.settings import index_settings
from retort.releases.usage import in_use, named_by
from retort.store import Artefact, Draft, Store, inherited
from retort.store.locks import lease
from retort.store.schemas import part_name

__all__ = ["Purged", "purge"]

RECORDS = "purges"


@dataclass(frozen=True)
class Purged:
    """What was done."""

    releases: dict[str, int]  # name -> version now
    deleted: list[str]  # kind/name (key)
    cache_files: int
    may_quote: list[str]
    still_held: bool  # a replica had not let go of an old version in time
    unfinished: list[str]  # why the passages may come back: what running jobs make, or made meanwhile


def purge(
    store: Store,
    ids: Sequence[str],
    *,
    wait_s: float = 30.0,
    progress: Progress = QUIET,
) -> Purged:
    """Purge; errors as the steps it calls.

    Raises:
        NotFoundError: no corpus of the store holds any of the ids, and no earlier purge did.
        InputError: a corpus that is served or named would be left without passages.
        BusyError: a release is being re-indexed.
    """
    record_name = f"{hashlib.sha256(json.dumps(sorted(ids)).encode()).hexdigest()[:32]}.json"
    earlier = _read_record(store, record_name)
    with _locks(store):
        affected = holding(store, set(ids))
        if not any(affected.values()) and not earlier:
            raise NotFoundError(f"No corpus in {store.uri} holds any of the {len(ids)} passages: nothing to purge.")
        may_quote = quoting(store, affected)
        remake = _Remake(store, set(ids), affected, progress)
        remade = remake.all()
        releases = _move_releases(store, set(ids), affected, remake)
        trimmed = _trim(store, affected)
        progress.say(
            f"{len(remade)} artefacts made again, {len(releases)} releases moved, {trimmed} old versions forgotten."
        )
        digests = sorted({*earlier, *(item.digest for items in affected.values() for item in items)})
        store.area.at(RECORDS).write_bytes(record_name, json.dumps({"digests": digests}).encode())
        held = not _let_go(store, set(digests), wait_s)
        deleted = []
        for kind in COLLECTED:  # corpora last: they say what is affected, should a run be broken off here
            for item in affected[kind]:
                delete_artefact(item)
                deleted.append(str(item))
        unfinished = _delete_drafts(store, set(ids))
        # Only releases are locked: a job that makes a corpus, embeddings or an index may have published it while this ran.
        unfinished += [
            f"{item} was published meanwhile." for items in holding(store, set(ids)).values() for item in items
        ]
    return Purged(releases, deleted, clean_cache(digests), may_quote, held, unfinished)


def _needed(store: Store, affected: dict[str, list[Artefact]]) -> set[str]:
    """URIs of affected artefacts that a release serves now or that hold their name: these are made again, not only deleted."""
    needed = {
        found.uri
        for name in release_names(store)
        for ref in named_by(release_at(store, name)[0])
        if (found := store.find(ref.kind, ref.key)) is not None
    }
    for kind, items in affected.items():
        held = set(store.names(kind).values())
        needed |= {item.uri for item in items if item.key in held}
    return needed


class _Remake:
    """Makes artefacts again without the passages; the successors by key of what they replace."""

    def __init__(self, store: Store, ids: set[str], affected: dict[str, list[Artefact]], progress: Progress) -> None:
        self._store, self._ids, self._progress = store, ids, progress
        self._affected = {item.uri: item for items in affected.values() for item in items}
        self._needed = _needed(store, affected)
        self.successors: dict[str, Artefact] = {}
        self._holders = {kind: set(store.names(kind).values()) for kind in ("corpus", "embeddings", "index")}

    def _name(self, old: Artefact) -> str:
        """The name goes on to a successor only from its holder: an older version must not take it from a newer one."""
        return old.name if old.key in self._holders[old.kind] else f"{old.name[:90]}-{old.key[:8]}"

    def all(self) -> list[Artefact]:
        """Make all that is needed; returns the new ones."""
        for uri in sorted(self._needed):
            item = self._affected.get(uri)
            if item is not None and item.kind != "mask":
                self.of(item)
        return list(self.successors.values())

    def of(self, item: Artefact) -> Artefact:
        """The successor of an affected artefact, or the artefact itself."""
        if item.uri not in self._affected:
            return item
        if item.key not in self.successors:
            make = {"corpus": self._corpus, "embeddings": self._embeddings, "index": self._index}[item.kind]
            self.successors[item.key] = make(item)
        return self.successors[item.key]

    def _corpus(self, old: Artefact) -> Artefact:
        # The ids enter the key only as a hash: a manifest must not name what was purged.
        left = hashlib.sha256(json.dumps(sorted(self._ids)).encode()).hexdigest()
        made = self._filtered(old, {"corpus": old}, "purge", {"without": left})
        return made

    def _embeddings(self, old: Artefact) -> Artefact:
        corpus = self.of(old.input("corpus"))
        inputs = {"corpus": corpus, "encoder": old.input("encoder")}
        # As `embed` would make them of the purged corpus: the same key.
        return self._filtered(old, inputs, old.manifest.step, old.manifest.config, old.manifest.step_version)

    def _index(self, old: Artefact) -> Artefact:
        embeddings = self.of(old.input("embeddings"))
        settings = index_settings(old, embeddings)
        config = IndexConfig(store=self._store.uri, name=self._name(old), embeddings=embeddings.uri, **settings)
        return index(config, self._progress)

    def _filtered(
        self, old: Artefact, inputs: dict[str, Artefact], step: str, config: dict[str, Any], version: int = 1
    ) -> Artefact:
        draft = self._store.draft(old.kind, self._name(old), step=step, version=version, inputs=inputs, config=config)
        done = draft.published
        if done is not None:
            return done
        unwanted = pa.array(sorted(self._ids), pa.string())
        with draft:
            rows = number = 0
            for part in old.parts():
                table = old.part(part)
                kept = table.filter(pc.invert(pc.is_in(table.column("passage_id"), value_set=unwanted)))
                if kept.num_rows:  # an empty part would be a shard or a batch of nothing
                    draft.write_table(part_name(number), kept)
                    number, rows = number + 1, rows + kept.num_rows
            if not rows:
                raise InputError(
                    f"{old} would be left without passages. Promote another index first, or delete the release."
                )
            metrics = {name: value for name, value in old.metrics.items() if name not in ("source", "reused_from")}
            metrics |= {name: rows for name in ("count", "passages") if name in metrics}
            facts = inherited(inputs.values()) if old.kind != "corpus" else _own_facts(old)
            return draft.publish(rows=rows, metrics=metrics, **facts)


def _own_facts(corpus: Artefact) -> dict[str, Any]:
    manifest = corpus.manifest
    return {"licences": manifest.licences, "personal_data": manifest.personal_data}


def _move_releases(store: Store, ids: set[str], affected: dict[str, list[Artefact]], remake: _Remake) -> dict[str, int]:
    texts = texts_of(affected["corpus"], ids)  # example queries were often made of a passage's own words
    gone = {(item.kind, item.key) for items in affected.values() for item in items}
    moved = {}
    for name in release_names(store):
        release, version = release_at(store, name)
        if not any((ref.kind, ref.key) in gone for ref in named_by(release)) and not _names(release, ids):
            continue
        served = remake.of(release.index.find(store))
        mask = {key: reason for key, reason in read_mask(store, release).items() if key not in ids}
        changes: dict[str, Any] = {
            "index": ArtefactRef.of(served),
            "corpus": ArtefactRef.of(served.input("embeddings").input("corpus")),
            "masked": masked_ref(store, mask, name),
            "canaries": _without(release.canaries, ids),
            "examples": [query for query in release.examples if not any(query in text for text in texts)],
            "origin": "promote",
        }
        following = release.model_copy(update=changes)
        moved[name] = promote(store, following, (check_whole,), note="purged passages", expected_version=version)
    return moved


def _names(release: Release, ids: set[str]) -> bool:
    return any(ids & set(item.expect) for item in release.canaries)


def _without(canaries: Sequence[Canary], ids: set[str]) -> list[Canary]:
    left = [item.model_copy(update={"expect": [one for one in item.expect if one not in ids]}) for item in canaries]
    return [item for item in left if item.expect]


def _trim(store: Store, affected: dict[str, list[Artefact]]) -> int:
    """Delete the versions of releases that name what will be gone; the current ones name it no longer."""
    gone = {(item.kind, item.key) for items in affected.values() for item in items}
    trimmed = 0
    for name in release_names(store):
        for move in history(store, name)[1:]:
            if any((ref.kind, ref.key) in gone for ref in named_by(move.release)):
                release_pointer(store, name).forget(move.version)
                trimmed += 1
    return trimmed


def _let_go(store: Store, digests: set[str], wait_s: float) -> bool:
    """Wait for replicas to follow; a replica that does not would have to be restarted."""
    deadline = time.monotonic() + wait_s
    while in_use(store) & digests:
        if time.monotonic() > deadline:
            return False
        time.sleep(min(1.0, wait_s))
    return True


def _delete_drafts(store: Store, ids: set[str]) -> list[str]:
    """Delete what broken-off jobs left of the passages; returns who is at work on drafts that hold them."""
    wanted = pa.array(sorted(ids), pa.string())
    at_work = []
    for kind in COLLECTED:
        for draft in store.unfinished(kind):
            if not _may_hold(draft, wanted):
                continue
            try:
                with draft:  # else its job, which counts on the parts that it found, would publish the rest
                    draft.discard()
            except BusyError as error:
                at_work.append(str(error))
    return at_work


def _may_hold(draft: Draft, wanted: pa.Array) -> bool:
    """Whether a draft's tables name one of the passages, or it has a FAISS file without the ids of the vectors that are in it."""
    files = draft.files()
    told = {path.replace("ids-", "shard-").replace(".parquet", ".faiss") for path in files if path.startswith("ids-")}
    if any(path.endswith(".faiss") and path not in told for path in files):
        return True
    tables = (draft.read_table(path, ["passage_id"]) for path in files if path.endswith(".parquet"))
    return any(pc.any(pc.is_in(table.column(0), value_set=wanted)).as_py() for table in tables)


def _read_record(store: Store, name: str) -> list[str]:
    area = store.area.at(RECORDS)
    return list(json.loads(area.read(name))["digests"]) if area.exists(name) else []


@contextmanager
def _locks(store: Store) -> Iterator[None]:
    """Every release's lock, so that no re-index brings back what is being purged."""
    with ExitStack() as stack:
        for name in release_names(store):
            stack.enter_context(lease(release_lock(store, name), f"purging passages from release {name}"))
        yield
