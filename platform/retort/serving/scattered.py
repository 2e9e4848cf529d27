"""An index that lies scattered: each part (some of its shards) in processes of its own, asked all at once, merged as ever.

    ScatteredIndex      what a searcher holds in place of a ShardedIndex: fans out, merges by indexing/merge, and leaves out
                        a part that has not answered by its deadline
    PartServer          one part: opens its shards of whichever index it is asked about, and keeps the last two

Every question carries the index it is about (key and digest), and a part that does not hold that one yet opens it: a change of
the release needs no message to anybody. Part j of n holds the shards whose number leaves j when divided by n, so that an index
with another number of shards needs no other deployments.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from retort.errors import OverloadedError
from retort.indexing.merge import Hits, merge_shards
from retort.indexing.search import ShardedIndex, checked_queries
from retort.releases.release import ArtefactRef
from retort.store import Artefact, Store

__all__ = ["Answer", "Part", "PartQuery", "PartServer", "ScatteredIndex", "shards_of"]

log = logging.getLogger(__name__)

_KEPT = 2
_OPEN_TIMEOUT_S = 600.0
_SUSPECT_S = 5.0
_SUSPECT_WAIT_S = 0.05


@dataclass(frozen=True)
class PartQuery:
    """What a part is asked: vectors [n, dimension] float32, the index they are for, and which rows may be found (packed bits)."""

    index: ArtefactRef
    vectors: NDArray[np.float32]
    k: int
    allowed: bytes | None = None


class Answer(Protocol):
    """A part's answer to come; Ray Serve's DeploymentResponse is one."""

    def result(self, timeout_s: float | None = None) -> Any:
        """(scores, rows), each [n, <= k]; TimeoutError when late, any exception when the part is in trouble."""

    def cancel(self) -> None:
        """Nobody waits for it any more."""


class Part(Protocol):
    """One part, wherever it is."""

    def search(self, query: PartQuery) -> Answer:
        """Ask it."""


class ScatteredIndex:
    """An index by its parts. Safe to search from several threads."""

    def __init__(self, artefact: Artefact, parts: Sequence[Part], timeout_s: float) -> None:
        """Wait until every part has opened the index; raises what a part says is wrong with it."""
        self._ref = ArtefactRef.of(artefact)
        self._whole = ShardedIndex.open(artefact, shards=())  # its description and passage ids; no shard of it
        self._parts, self._timeout_s = list(parts), timeout_s
        self._shown: NDArray[np.bool_] | None = None
        self._missing = threading.local()
        self._suspect_until: dict[int, float] = {}
        self.passage_space, self.dimension = self._whole.passage_space, self._whole.dimension
        probe = np.zeros((1, self.dimension), dtype=np.float32)
        self._ask(probe, 1, None, _OPEN_TIMEOUT_S, strict=True)

    def __len__(self) -> int:
        return len(self._whole)

    def passage_ids(self, rows: NDArray[np.int64]) -> list[str]:
        """The user's passage ids of these rows."""
        return self._whole.passage_ids(rows)

    def hiding(self, hidden: NDArray[np.bool_]) -> Self:
        """This index without the rows that are true in `hidden` [count]."""
        view = copy.copy(self)
        view._shown = ~hidden if self._shown is None else self._shown & ~hidden
        view._origin = self  # type: ignore[attr-defined]  # kept open as long as this view is
        return view

    def search(self, vectors: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None) -> Hits:
        """As ShardedIndex.search, without the shards that did not answer in time (`take_missing` names them).

        Raises OverloadedError when none did.
        """
        queries = checked_queries(vectors, k, self.dimension, self._ref.name)
        if self._shown is not None:
            allowed = self._shown if allowed is None else allowed & self._shown
        found = self._ask(queries, k, allowed, self._timeout_s, strict=False)
        if not found:
            raise OverloadedError("No shard of the index answered in time: send the request again.")
        return merge_shards(found, k, self.passage_ids)

    def take_missing(self) -> list[int]:
        """Shards that were left out in this thread's searches since the last call."""
        missing = self._noted()
        self._missing.shards = set()
        return sorted(missing)

    def _noted(self) -> set[int]:
        noted: set[int] = getattr(self._missing, "shards", set())
        return noted

    def _ask(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None, timeout_s: float, *, strict: bool
    ) -> list[Hits]:
        bits = None if allowed is None else np.packbits(allowed).tobytes()
        query = PartQuery(self._ref, queries, k, bits)
        answers = [part.search(query) for part in self._parts]
        began = time.monotonic()
        found = []
        for number, answer in enumerate(answers):
            # One that was late just now may not hold up every batch; it is asked all the same, and is back when it answers.
            suspect = not strict and began < self._suspect_until.get(number, 0.0)
            deadline = began + (min(timeout_s, _SUSPECT_WAIT_S) if suspect else timeout_s)
            try:
                scores, rows = answer.result(timeout_s=max(0.0, deadline - time.monotonic()))
            except Exception as error:  # late, dead, or broken: the others answer
                if strict:
                    raise
                answer.cancel()
                if not suspect:
                    log.warning("part %d of index %s left out: %r", number, self._ref.name, error)
                self._suspect_until[number] = time.monotonic() + _SUSPECT_S
                total = len(self._whole.description["shards"])
                self._missing.shards = {*self._noted(), *shards_of(number, len(self._parts), total)}
            else:
                self._suspect_until.pop(number, None)
                found.append(Hits(scores, rows))
        return found


class PartServer:
    """One part's shards. Safe from several threads."""

    def __init__(self, store: Store, part: int, parts: int, threads: int = 1) -> None:
        self._store, self._part, self._parts, self._threads = store, part, parts, threads
        self._open: LRUCache[str, ShardedIndex] = LRUCache(_KEPT)
        self._lock = threading.Lock()

    def search(self, query: PartQuery) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and rows [n, k] of this part's shards, best first."""
        index = self._index(query.index)
        if not index.shard_count:
            shape = (len(query.vectors), 0)
            return np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.int64)
        allowed = None
        if query.allowed is not None:
            bits = np.frombuffer(query.allowed, dtype=np.uint8)
            allowed = np.unpackbits(bits, count=len(index)).astype(np.bool_)
        hits = index.search(query.vectors, query.k, allowed)
        return hits.scores, hits.rows

    def _index(self, ref: ArtefactRef) -> ShardedIndex:
        with self._lock:
            found = self._open.get(ref.digest)
            if found is None:
                artefact = ref.find(self._store)
                total = len(artefact.json("index.json")["shards"])
                found = ShardedIndex.open(
                    artefact, threads=self._threads, shards=shards_of(self._part, self._parts, total)
                )
                self._open[ref.digest] = found
            return found


def shards_of(part: int, parts: int, total: int) -> range:
    """Numbers of the shards that a part holds."""
    return range(part, total, parts)
