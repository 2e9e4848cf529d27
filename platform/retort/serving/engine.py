"""The searcher behind the batcher: what one replica runs, without HTTP and without Ray.

Encoding and searching happen on one thread per lane, never on the event loop, so that health checks answer meanwhile and
torch, FAISS and Ray do not fight for cores. Searches and embeddings share the lane for the same reason.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from retort.errors import ConfigError, RetortError
from retort.serving.batcher import Batcher
from retort.serving.metrics import ServingMetrics
from retort.serving.models import (
    BatchSearchResponse,
    EmbeddingsRequest,
    EncoderInfo,
    QueryHits,
    RefusedChange,
    ReleaseStamp,
    SearchRequest,
    SearchResponse,
    ServiceInfo,
    Timings,
)
from retort.serving.routing import Route, route, sticky_draw
from retort.serving.searcher import SearchQuery, SearchResult, Side
from retort.serving.served import ReleaseIdentity, Served
from retort.serving.shadowing import Shadows

Vectors = NDArray[np.float32]


class DeadlineError(TimeoutError):
    """The answer was not ready within the request's time."""


@dataclass(frozen=True)
class EngineLimits:
    """What one replica takes on."""

    max_batch_queries: int = 64
    max_queued_queries: int = 512
    max_query_chars: int = 8000
    request_timeout_s: float = 30.0
    lanes: int = 1


@dataclass(frozen=True)
class Asked:
    """What came with a request besides its body: headers by lower-case name."""

    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _SearchWork:
    served: Served
    queries: Sequence[SearchQuery]


@dataclass(frozen=True)
class _EmbedWork:
    served: Served
    texts: Sequence[str]
    encoder: str
    side: Side


_Work = _SearchWork | _EmbedWork
_Done = list[SearchResult] | tuple[Vectors, int]


class SearchEngine:
    """One replica's work: made on the event loop that will use it. What it serves is swapped beneath it (`swap`)."""

    def __init__(
        self, served: Served, *, limits: EngineLimits | None = None, metrics: ServingMetrics | None = None
    ) -> None:
        self._served = served
        self.limits = limits or EngineLimits()
        self.metrics = metrics or ServingMetrics()
        self.refused: RefusedChange | None = None
        """The newest version of the release that failed its check, if it is newer than what is served."""
        self._batcher: Batcher[_Work, _Done] = Batcher(
            self._run,
            max_batch=self.limits.max_batch_queries,
            max_queued=self.limits.max_queued_queries,
            lanes=self.limits.lanes,
            name="retort-search",
        )
        self._shadows = Shadows(self._answer_shadow, lambda: self.queue_length() > 0, self.metrics)
        self.metrics.serving(served.identity.version)

    @property
    def served(self) -> Served:
        """What a request that comes now is answered with."""
        return self._served

    def swap(self, served: Served) -> None:
        """Serve this from now on; from any thread. Requests in flight keep what they began with."""
        self._served, self.refused = served, None
        self.metrics.serving(served.identity.version)

    def limit(self, limits: EngineLimits) -> None:
        """Change the limits of requests to come."""
        self.limits = limits
        self._batcher.max_batch, self._batcher.max_queued = limits.max_batch_queries, limits.max_queued_queries

    def info(self) -> ServiceInfo:
        """What is being served."""
        searcher, identity = self._served.searcher, self._served.identity
        return ServiceInfo(
            release=identity.release,
            version=identity.version,
            refused=self.refused,
            index=identity.index_name,
            index_digest=identity.index_digest,
            passages=len(searcher),
            default_encoder=searcher.default_encoder,
            encoders=[
                EncoderInfo(
                    name=name, digest=identity.encoder_digests[name], dimension=searcher.encoder(name)[1].dimension
                )
                for name in searcher.encoder_names
            ],
            examples=list(self._served.examples),
            max_query_chars=self.limits.max_query_chars,
        )

    async def search(self, request: SearchRequest, asked: Asked | None = None) -> SearchResponse | BatchSearchResponse:
        """Answer one request: OverloadedError when full, DeadlineError when late, ConfigError or NotFoundError when it does not fit."""
        began = time.perf_counter()
        served = self._served  # the one that this request keeps, whatever is swapped in meanwhile
        try:
            answer = await self._search(served, request, asked or Asked(), began)
        except (RetortError, asyncio.CancelledError):
            raise  # the caller's own, or refused
        except Exception:  # the deadline, or a mistake of ours
            served.watch.note((time.perf_counter() - began) * 1000, failed=True)
            raise
        served.watch.note((time.perf_counter() - began) * 1000, failed=False)
        return answer

    async def _search(
        self, served: Served, request: SearchRequest, asked: Asked, began: float
    ) -> SearchResponse | BatchSearchResponse:
        searcher, identity = served.searcher, served.identity
        self._check_supported(request, identity)
        way = self._route(served, request, asked)
        encoder, _ = searcher.encoder(way.encoder)
        queries = [
            SearchQuery(
                text=text,
                k=request.k,
                offset=request.offset,
                encoder=encoder,
                filters=request.filters,
                group_by=request.group_by,
                highlight=request.highlight,
            )
            for text in request.texts
        ]
        done, queued_s = await self._submit(_SearchWork(served, queries), len(queries))
        assert isinstance(done, list)
        stages = {"queue": queued_s * 1000, **done[0].stages_ms, "total": (time.perf_counter() - began) * 1000}
        self.metrics.answered(encoder, len(queries), stages)
        self.metrics.routed(encoder, way.by)
        self._shadows.consider(served, encoder, queries, done)
        stamp = ReleaseStamp(
            name=identity.release,
            version=identity.version,
            index=identity.index_digest,
            encoder=encoder,
            encoder_digest=identity.encoder_digests[encoder],
            routed_by=way.by,
        )
        timings = Timings(**{stage: round(value, 3) for stage, value in stages.items()})
        kind = searcher.score_kind
        if request.query is not None:
            return SearchResponse.model_construct(
                hits=done[0].hits, release=stamp, score_kind=kind, timings_ms=timings, degraded=False, missing_shards=[]
            )
        results = [QueryHits.model_construct(hits=result.hits) for result in done]
        return BatchSearchResponse.model_construct(
            results=results, release=stamp, score_kind=kind, timings_ms=timings, degraded=False, missing_shards=[]
        )

    def _route(self, served: Served, request: SearchRequest, asked: Asked) -> Route:
        routing = served.routing
        key = asked.headers.get(routing.sticky_header.lower()) if routing else None
        draw = sticky_draw(served.identity.release, key) if key else random.random()
        return route(
            routing,
            served.searcher.default_encoder,
            asked=request.encoder,
            texts=request.texts,
            headers=asked.headers,
            draw=draw,
        )

    async def _answer_shadow(self, served: Served, queries: Sequence[SearchQuery]) -> list[SearchResult]:
        done, _ = await self._submit(_SearchWork(served, queries), len(queries))
        assert isinstance(done, list)
        return done

    async def embed(self, request: EmbeddingsRequest) -> tuple[Vectors, int]:
        """Vectors [n, dimension] float32 and the tokens read."""
        served = self._served
        encoder, model = served.searcher.encoder(None if request.model == "default" else request.model)
        if request.dimensions not in (None, model.dimension):
            raise ConfigError(
                f"dimensions is {request.dimensions}; encoder {encoder!r} has {model.dimension}. Leave it out."
            )
        self._check_lengths(request.texts, "input")
        began = time.perf_counter()
        work = _EmbedWork(served, request.texts, encoder, request.input_type)
        done, queued_s = await self._submit(work, len(request.texts))
        assert isinstance(done, tuple)
        total = time.perf_counter() - began
        self.metrics.answered(
            encoder, len(request.texts), {"queue": queued_s * 1000, "embed": (total - queued_s) * 1000}
        )
        return done

    async def close(self) -> None:
        """Refuse what comes, fail what waits."""
        await self._batcher.close()

    @property
    def retry_after_s(self) -> int:
        """Seconds after which a refused caller may try again."""
        return self._batcher.retry_after_s()

    def queue_length(self) -> int:
        """Queries waiting now."""
        return self._batcher.queued_weight

    def stuck_s(self) -> float:
        """How long the present batch has been running, in seconds; 0 when idle."""
        return self._batcher.stuck_s()

    async def _submit(self, work: _Work, weight: int) -> tuple[_Done, float]:
        try:
            async with asyncio.timeout(self.limits.request_timeout_s):
                return await self._batcher.submit(work, weight)
        except TimeoutError:
            raise DeadlineError(
                f"No answer within {self.limits.request_timeout_s:g} s: send the request again, or ask for less."
            ) from None

    def _check_supported(self, request: SearchRequest, identity: ReleaseIdentity) -> None:
        self._check_lengths(request.texts, "query")
        if request.rerank is not None:
            raise ConfigError(f"rerank: release {identity.release!r} has no re-ranking stage. Leave rerank out.")
        if request.hybrid:
            raise ConfigError(f"hybrid: release {identity.release!r} has no BM25 stage. Leave hybrid out.")

    def _check_lengths(self, texts: Sequence[str], field: str) -> None:
        longest = max(map(len, texts))
        if longest > self.limits.max_query_chars:
            raise ConfigError(f"{field} has {longest} characters; at most {self.limits.max_query_chars} are taken.")

    def _run(self, batch: Sequence[_Work]) -> list[_Done]:
        """One batch, on a lane's thread: all searches over one release in one call, embeddings grouped by encoder and side."""
        results: dict[int, _Done] = {}
        searches: dict[int, list[int]] = {}  # a swap may leave two releases in one batch
        embeddings: dict[tuple[int, str, Side], list[int]] = {}
        for number, work in enumerate(batch):
            if isinstance(work, _SearchWork):
                searches.setdefault(id(work.served), []).append(number)
            else:
                embeddings.setdefault((id(work.served), work.encoder, work.side), []).append(number)
        for numbers in searches.values():
            works = [work for number in numbers if isinstance(work := batch[number], _SearchWork)]
            found = iter(works[0].served.searcher.search([query for work in works for query in work.queries]))
            for number, work in zip(numbers, works, strict=True):
                results[number] = [next(found) for _ in work.queries]
        for numbers in embeddings.values():
            self._embed_group(numbers, [work for n in numbers if isinstance(work := batch[n], _EmbedWork)], results)
        self.metrics.batch(
            sum(len(work.texts) if isinstance(work, _EmbedWork) else len(work.queries) for work in batch)
        )
        return [results[number] for number in range(len(batch))]

    @staticmethod
    def _embed_group(numbers: Sequence[int], works: Sequence[_EmbedWork], results: dict[int, _Done]) -> None:
        searcher, encoder, side = works[0].served.searcher, works[0].encoder, works[0].side
        vectors = searcher.embed([text for work in works for text in work.texts], encoder, side)  # [all texts, dim]
        start = 0
        for number, work in zip(numbers, works, strict=True):
            end = start + len(work.texts)
            results[number] = (vectors[start:end], searcher.count_tokens(work.texts, encoder, side))
            start = end
