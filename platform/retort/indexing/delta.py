"""A partial index: what an earlier index already holds by reference, and one new shard with the rest.

    delta_index(config) -> index     index.json of layout 2, rows-NNNNN.npy, at most one shard-NNNNN.faiss
    outgrown(index)                  how much of what it searches is deltas and deleted passages: when to compact

A position of the earlier index stays in use where the vector there is, bit for bit, that of a row of the new embeddings. So
the result does not rest on how those came about, and a flat index gives the hits of one built whole. The new shard is
filled into the earlier index's own trained quantiser, emptied, so scores compare across shards. A delta of a delta names the
original shards: no chain is ever longer than one step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from retort.config import JobConfig, Ref
from retort.errors import CorruptError, IncompatibleError, InputError
from retort.indexing.faiss_library import faiss
from retort.indexing.kinds import IndexPlan, empty_index, faiss_reason
from retort.indexing.opening import verified, write_faiss_file
from retort.indexing.search import holder_of
from retort.indexing.shards import CHECKED, check_shard, shard_name
from retort.indexing.vectors import EmbeddingFacts, VectorStore, as_float32, check_ids, facts, with_corpus
from retort.progress import QUIET, Progress
from retort.store import Artefact, Draft, inherited, open_store

__all__ = ["DeltaConfig", "delta_index", "outgrown"]

LAYOUT = 2
BLOCK_ROWS = 32768


class DeltaConfig(JobConfig):
    """An index over new embeddings that keeps what it can of an earlier one."""

    embeddings: Annotated[str, Ref("embeddings")] = Field(description="Embeddings of the new corpus.")
    base: Annotated[str, Ref("index")] = Field(description="Index of earlier embeddings by the same encoder.")


@dataclass(frozen=True)
class _Carried:
    """One shard of the base with its new map: position -> row of the new corpus, -1 where nothing is left."""

    entry: dict[str, Any]
    rows: NDArray[np.int64]


def delta_index(config: DeltaConfig, progress: Progress = QUIET) -> Artefact:
    """Make the partial index; return its artefact. Needs no Ray: it is made for the little that changes.

    Raises:
        NotFoundError: no such embeddings or index. InputError: duplicate ids, or nothing in common. IncompatibleError: they are of different encoders.
        CorruptError: a shard of the base is not what was published, or the new one does not find its own vectors.
    """
    store = open_store(config.store)
    embeddings, base = store.get(config.embeddings, "embeddings"), store.get(config.base, "index")
    draft = store.draft(
        "index",
        config.name or base.name,
        step="delta",
        inputs={**with_corpus(embeddings), "base": base},
        config=config.identity(),
    )
    done = draft.published
    if done is not None:
        progress.say(f"Index {done.name} is already made.")
        return done
    known = facts(embeddings)
    verified(base, "index.json")
    description = base.json("index.json")
    _check_fit(embeddings, known, base, description)
    check_ids(embeddings)
    with draft:
        return draft.published or _compose(config, draft, embeddings, known, base, description, progress)


def outgrown(index: Artefact) -> float:
    """Passages in delta shards and deleted ones that are still stored, as a share of all that it answers from; 0 for a whole index."""
    description = index.json("index.json")
    stored = sum(entry["count"] for entry in description["shards"])
    added = sum(entry["count"] for entry in description["shards"] if entry.get("delta"))
    return float((stored - description["count"] + added) / max(1, description["count"]))


def _check_fit(embeddings: Artefact, known: EmbeddingFacts, base: Artefact, description: dict[str, Any]) -> None:
    for name in ("dimension", "similarity", "passage_space"):
        if description[name] != getattr(known, name):
            raise IncompatibleError(
                f"{embeddings} and {base} differ in {name} ({getattr(known, name)!s:.12} and {description[name]!s:.12}): "
                "an index is extended only with embeddings of its own encoder. Build it whole: retort index."
            )


def _compose(
    config: DeltaConfig,
    draft: Draft,
    embeddings: Artefact,
    known: EmbeddingFacts,
    base: Artefact,
    description: dict[str, Any],
    progress: Progress,
) -> Artefact:
    with progress.task("comparing vectors", float(known.count)) as task:
        earlier = base.input("embeddings")
        vectors = VectorStore.open(embeddings)
        targets = _same_vectors(embeddings, vectors, earlier, VectorStore.open(earlier))
        task.update(known.count)
    carried = [item for item in _carried(base, description, targets) if (item.rows >= 0).any()]
    fresh = _uncovered(carried, known.count)
    if not carried:
        raise InputError(f"{embeddings} shares no vector with {base}: build it whole instead: retort index.")
    entries = []
    for number, item in enumerate(carried):
        entries.append({**item.entry, "rows": _write_rows(draft, number, item.rows)})
    found = None
    if len(fresh):
        number = len(entries)
        with progress.task("building the delta shard", float(len(fresh))) as task:
            found = _write_shard(draft, shard_name(number), base, description, vectors, fresh, config.seed)
            task.update(len(fresh))
        entry = {"file": shard_name(number), "first_row": 0, "count": len(fresh), "delta": True}
        entries.append({**entry, "rows": _write_rows(draft, number, fresh)})
    composed = {**description, "layout": LAYOUT, "count": known.count, "shards": entries}
    draft.write_json("index.json", composed)
    metrics = {
        **{name: value for name, value in base.metrics.items() if name not in ("why", "tuned", "build_worker_s")},
        "why": f"{base.name} ({base.key[:12]}) with what changed",
        "count": known.count,
        "shards": len(entries),
        "carried": known.count - len(fresh),
        "added": len(fresh),
        "own_vectors_found": found,
        "base": base.key,
        "whole": base.metrics.get("whole", base.key),
    }
    return draft.publish(rows=known.count, metrics=metrics, **inherited([embeddings]))


def _same_vectors(embeddings: Artefact, new: VectorStore, earlier: Artefact, old: VectorStore) -> NDArray[np.int64]:
    """[rows of the earlier] the row of the new embeddings with the same vector, or -1; no new row twice.

    Looked for under the same passage id first, then under the same content hash: a passage that got another id stays where it is.
    """
    mine, theirs = (item.table(columns=["passage_id", "content_hash"]) for item in (embeddings, earlier))
    if (len(mine), len(theirs)) != (len(new), len(old)):
        raise CorruptError(f"{embeddings} or {earlier} does not hold what its manifest says. Embed again.")
    targets = np.full(len(old), -1, dtype=np.int64)
    for column in ("passage_id", "content_hash"):
        covered = np.zeros(len(new), dtype=np.bool_)
        covered[targets[targets >= 0]] = True
        found = pc.index_in(mine.column(column), value_set=theirs.column(column))
        candidates: NDArray[np.int64] = pc.fill_null(found, -1).to_numpy().astype(np.int64)  # [rows of new]
        rows = np.flatnonzero((candidates >= 0) & ~covered)
        rows = rows[targets[candidates[rows]] < 0]
        rows = rows[np.unique(candidates[rows], return_index=True)[1]]
        for start in range(0, len(rows), BLOCK_ROWS):
            own = np.sort(rows[start : start + BLOCK_ROWS])
            # As bytes: equal is what is stored equal, and not what compares equal.
            same = (new.half[own].view(np.uint16) == old.half[candidates[own]].view(np.uint16)).all(axis=1)
            targets[candidates[own[same]]] = own[same]
    return targets


def _carried(base: Artefact, description: dict[str, Any], targets: NDArray[np.int64]) -> list[_Carried]:
    """The base's shards, named where they really lie, with maps to the rows of the new corpus."""
    found = []
    for entry in description["shards"]:
        first, count = entry["first_row"], entry["count"]
        if "rows" in entry:
            earlier = np.load(verified(base, entry["rows"]), allow_pickle=False)
            rows = np.where(earlier >= 0, targets[earlier], -1)
        else:
            rows = targets[first : first + count]
        holder = entry.get("artefact") or {"key": base.key, "digest": base.digest}
        kept = {key: value for key, value in entry.items() if key not in ("ids", "rows")}
        found.append(_Carried({**kept, "artefact": holder}, rows))
    return found


def _uncovered(carried: list[_Carried], count: int) -> NDArray[np.int64]:
    """Rows of the new corpus that no carried shard has, ascending. CorruptError if two shards have the same."""
    times = np.zeros(count, dtype=np.int8)
    for item in carried:
        times[item.rows[item.rows >= 0]] += 1
    if (times > 1).any():
        raise CorruptError("The earlier index holds a passage twice. Build the index whole: retort index.")
    return np.flatnonzero(times == 0)


def _write_rows(draft: Draft, number: int, rows: NDArray[np.int64]) -> str:
    name = f"rows-{number:05d}.npy"

    def fill(target: Path) -> None:
        with target.open("wb") as handle:
            np.save(handle, np.ascontiguousarray(rows, dtype=np.int64), allow_pickle=False)

    draft.write_with(name, fill)
    return name


def _write_shard(
    draft: Draft,
    name: str,
    base: Artefact,
    description: dict[str, Any],
    vectors: VectorStore,
    rows: NDArray[np.int64],
    seed: int,
) -> float:
    """Build, check and write the shard of these rows; returns the share of its own vectors found."""
    plan = IndexPlan(description["factory"], "", description["exact"], False, description["search"])
    index = _emptied(base, description)
    faiss.omp_set_num_threads(1)  # one, as shards are built: the same bytes every time
    for start in range(0, len(rows), BLOCK_ROWS):
        half = vectors.half[rows[start : start + BLOCK_ROWS]]
        try:
            index.add(as_float32(half, vectors.facts.similarity))
        except RuntimeError as error:
            raise InputError(f"FAISS could not fill index kind {plan.factory!r}: {faiss_reason(error)}.") from None
    asked = np.unique(np.random.default_rng([seed, 5]).integers(0, len(rows), CHECKED))
    shares: list[float] = []

    def fill(target: Path) -> None:
        write_faiss_file(index, target)
        shares.append(check_shard(target, name, plan, vectors.rows(rows[asked]), asked, len(rows)))

    draft.write_with(name, fill)
    return shares[0]


def _emptied(base: Artefact, description: dict[str, Any]) -> Any:
    """The base's own index without its vectors: what was trained stays, so that codes mean the same."""
    index = empty_index(description["factory"], description["dimension"])
    if index.is_trained:
        return index
    smallest = min(description["shards"], key=lambda entry: int(entry["count"]))
    path = verified(holder_of(base, smallest), smallest["file"])
    try:
        trained = faiss.read_index(str(path))  # not mapped: what is mapped cannot be emptied
    except RuntimeError as error:
        raise CorruptError(f"{base}: FAISS {faiss.__version__} cannot read {path}: {faiss_reason(error)}.") from None
    trained.reset()
    return trained
