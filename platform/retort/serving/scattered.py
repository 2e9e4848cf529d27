"""An index that lies scattered: each part (some of its shards) in processes of its own, asked all at once, merged as ever.

    ScatteredIndex      what a searcher holds in place of a ShardedIndex: fans out, merges by indexing/merge, and leaves out
                        a part that has not answered by its deadline
    PartServer          one part: opens its shards of whichever index it is asked about, and keeps the last two

Every question carries the index it is about (key and digest), so that two releases are answered side by side. Before one is taken up,
every process of every part is told to open its index (`prepare`); one that is asked about an index unprepared opens it then. Part j of n holds the shards whose number leaves j when divided by n, so that an index
with another number of shards needs no other deployments.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from retort.errors import OverloadedError
from retort.indexing.merge import Hits
from retort.indexing.refine import Candidates
from retort.indexing.search import ShardedIndex, checked_queries
from retort.releases.release import ArtefactRef
from retort.store import Artefact, Store

__all__ = ["Answer", "Part", "PartQuery", "PartServer", "ScatteredIndex", "shards_of"]

log = logging.getLogger(__name__)

_KEPT = 2
_OPEN_TIMEOUT_S = 600.0
_SUSPECT_S = 5.0
_SUSPECT_WAIT_S = 0.05
_CALLERS = 4  # threads that may search at the same time: lanes, and whoever opens the next release


@dataclass(frozen=True)
class PartQuery:
    """What a part is asked: vectors [n, dimension] float32, the index they are for, how many candidates it may name for each, and
    which rows may be found (packed bits)."""

    index: ArtefactRef
    vectors: NDArray[np.float32]
    depth: int
    allowed: bytes | None = None


class Answer(Protocol):
    """A part's answer to come; Ray Serve's DeploymentResponse is one."""

    def result(self, timeout_s: float | None = None) -> Any:
        """Candidates [n, <= depth]; TimeoutError when late, any exception when the part is in trouble."""

    def cancel(self) -> None:
        """Nobody waits for it any more."""


class Part(Protocol):
    """One part, wherever it is."""

    def prepare(self, index: ArtefactRef, timeout_s: float) -> None:
        """Open an index in every process of this part, beside what it answers; raises what is wrong with it."""

    def search(self, query: PartQuery) -> Answer:
        """Ask it."""


class ScatteredIndex:
    """An index by its parts. Safe to search from several threads."""

    def __init__(self, artefact: Artefact, parts: Sequence[Part], timeout_s: float) -> None:
        """Wait until every process of every part has opened the index; raises what one says is wrong with it."""
        self._ref = ArtefactRef.of(artefact)
        self._whole = ShardedIndex.open(artefact, shards=())  # its description and passage ids; no shard of it
        self._parts, self._timeout_s = list(parts), timeout_s
        self._shown: NDArray[np.bool_] | None = None
        self._missing = threading.local()
        self._suspect_until: dict[int, float] = {}
        self.passage_space, self.dimension = self._whole.passage_space, self._whole.dimension
        # Each answer is waited for on a thread of its own: behind a part that is silent, another's must not be missed.
        self._waiters = ThreadPoolExecutor(_CALLERS * len(self._parts), thread_name_prefix="retort-parts")
        for opened in [self._waiters.submit(part.prepare, self._ref, _OPEN_TIMEOUT_S) for part in self._parts]:
            opened.result()

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
        depth = self._whole.depth(k, allowed)
        if self._shown is not None:
            allowed = self._shown if allowed is None else allowed & self._shown
        found = self._ask(queries, depth, allowed)
        if not found:
            raise OverloadedError("No shard of the index answered in time: send the request again.")
        return self._whole.joined(found, k, depth)

    def take_missing(self) -> list[int]:
        """Shards that were left out in this thread's searches since the last call."""
        missing = self._noted()
        self._missing.shards = set()
        return sorted(missing)

    def _noted(self) -> set[int]:
        noted: set[int] = getattr(self._missing, "shards", set())
        return noted

    def _ask(self, queries: NDArray[np.float32], depth: int, allowed: NDArray[np.bool_] | None) -> list[Candidates]:
        """The candidates of the parts that answered in time; the others are noted as missing."""
        bits = None if allowed is None else np.packbits(allowed).tobytes()
        query = PartQuery(self._ref, queries, depth, bits)
        began = time.monotonic()
        asked: list[tuple[Answer, bool, Future[Any]]] = []
        for number, answer in enumerate([part.search(query) for part in self._parts]):
            # One that was late just now may not hold up every batch; it is asked all the same, and is back when it answers.
            suspect = began < self._suspect_until.get(number, 0.0)
            wait_s = min(self._timeout_s, _SUSPECT_WAIT_S) if suspect else self._timeout_s
            asked.append((answer, suspect, self._waiters.submit(answer.result, timeout_s=wait_s)))
        found = []
        for number, (answer, suspect, waited) in enumerate(asked):
            try:
                found.append(Candidates(*waited.result()))
            except Exception as error:  # late, dead, or broken: the others answer
                answer.cancel()
                if not suspect:
                    log.warning("part %d of index %s left out: %r", number, self._ref.name, error)
                self._suspect_until[number] = time.monotonic() + _SUSPECT_S
                total = len(self._whole.description["shards"])
                self._missing.shards = {*self._noted(), *shards_of(number, len(self._parts), total)}
            else:
                self._suspect_until.pop(number, None)
        return found


class PartServer:
    """One part's shards. Safe from several threads; while one opens an index, others search those that are open."""

    def __init__(self, store: Store, part: int, parts: int, threads: int = 1) -> None:
        self._store, self._part, self._parts, self._threads = store, part, parts, threads
        self._open: LRUCache[str, ShardedIndex] = LRUCache(_KEPT)
        self._lock, self._opening = threading.Lock(), threading.Lock()

    def search(self, query: PartQuery) -> Candidates:
        """The best candidates [n, <= depth] of this part's shards."""
        index = self._index(query.index)
        if not index.shard_count:
            shape = (len(query.vectors), 0)
            none = np.zeros(shape, dtype=np.float32)
            return Candidates(none, np.zeros(shape, dtype=np.int64), none)
        allowed = None
        if query.allowed is not None:
            bits = np.frombuffer(query.allowed, dtype=np.uint8)
            allowed = np.unpackbits(bits, count=len(index)).astype(np.bool_)
        return index.candidates(query.vectors, query.depth, allowed)

    def holds(self, ref: ArtefactRef) -> bool:
        """Whether this index is open."""
        with self._lock:
            return ref.digest in self._open

    def prepare(self, ref: ArtefactRef) -> None:
        """Open this part's shards of an index, if they are not; raises what is wrong with it."""
        self._index(ref)

    def _index(self, ref: ArtefactRef) -> ShardedIndex:
        found = self._opened(ref)
        if found is not None:
            return found
        with self._opening:
            found = self._opened(ref)  # by another, while this one waited
            if found is None:
                artefact = ref.find(self._store)
                total = len(artefact.json("index.json")["shards"])
                shards = shards_of(self._part, self._parts, total)
                found = ShardedIndex.open(artefact, threads=self._threads, shards=shards)
                with self._lock:
                    self._open[ref.digest] = found
            return found

    def _opened(self, ref: ArtefactRef) -> ShardedIndex | None:
        with self._lock:
            found: ShardedIndex | None = self._open.get(ref.digest)
            return found


def shards_of(part: int, parts: int, total: int) -> range:
    """Numbers of the shards that a part holds."""
    return range(part, total, parts)
