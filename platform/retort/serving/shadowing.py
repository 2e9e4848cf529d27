"""Shadow encoders: they answer a share of the queries after the caller has its answer, and are compared with the one that gave it.

Shadows are the first to go: one at a time, and none while requests wait.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from retort.errors import OverloadedError
from retort.serving.metrics import ServingMetrics
from retort.serving.searcher import SearchQuery, SearchResult
from retort.serving.served import Served

log = logging.getLogger(__name__)

Answer = Callable[[Served, Sequence[SearchQuery]], Awaitable[list[SearchResult]]]
_DEPTH = 10


class Shadows:
    """The shadow work of one engine. `answer` searches; `busy` says whether requests wait."""

    def __init__(self, answer: Answer, busy: Callable[[], bool], metrics: ServingMetrics) -> None:
        self._answer, self._busy, self._metrics = answer, busy, metrics
        self._task: asyncio.Task[None] | None = None

    def consider(
        self, served: Served, encoder: str, queries: Sequence[SearchQuery], results: Sequence[SearchResult]
    ) -> None:
        """Perhaps let a shadow answer these queries, which `encoder` answered with `results`."""
        routing = served.routing
        if routing is None or not routing.shadows or any(query.offset for query in queries):
            return
        for shadow in routing.shadows:
            if shadow.encoder == encoder or random.random() >= shadow.share:
                continue
            if self._busy() or (self._task is not None and not self._task.done()):
                self._metrics.shadow_dropped(shadow.encoder)
                continue
            asked = [
                replace(query, encoder=shadow.encoder, k=max(_DEPTH, query.k), highlight=False) for query in queries
            ]
            self._task = asyncio.get_running_loop().create_task(self._compare(served, shadow.encoder, asked, results))

    async def _compare(
        self, served: Served, encoder: str, queries: Sequence[SearchQuery], results: Sequence[SearchResult]
    ) -> None:
        try:
            others = await self._answer(served, queries)
        except OverloadedError:
            self._metrics.shadow_dropped(encoder)
            return
        except Exception:  # a shadow may be as broken as it likes: that is what it is tried for
            log.warning("shadow encoder %r failed", encoder, exc_info=True)
            self._metrics.shadow_failed(encoder)
            return
        for one, other in zip(results, others, strict=True):
            depth = min(_DEPTH, len(one.hits))
            if depth:
                self._metrics.shadow_answered(encoder, overlap(one, other, depth), other.stages_ms)


def overlap(one: SearchResult, other: SearchResult, depth: int) -> float:
    """Share of the first `depth` passages that both found."""
    first = {hit.passage_id for hit in one.hits[:depth]}
    return len(first & {hit.passage_id for hit in other.hits[:depth]}) / depth
