"""The searcher behind the batcher: what one replica runs, without HTTP and without Ray.

Encoding and searching happen on one thread per lane, not on the event loop, so that health checks answer meanwhile and
torch, FAISS and Ray do not fight for cores; only a short query that comes alone is answered where it is. Searches and embeddings
share the lane for the same reason.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from retort.errors import ConfigError, NotFoundError, OverloadedError, RetortError
from retort.serving import tracing
from retort.serving.answered import Answered
from retort.serving.awake import Awake
from retort.serving.batcher import Batcher
from retort.serving.metrics import ServingMetrics
from retort.serving.models import (
    BatchSearchResponse,
    EmbeddingsRequest,
    EncoderInfo,
    RefusedChange,
    SearchRequest,
    SearchResponse,
    ServiceInfo,
)
from retort.serving.routing import Route, route, sticky_draw
from retort.serving.searcher import SearchQuery, SearchResult
from retort.serving.served import Served
from retort.serving.shadowing import Shadows
from retort.serving.work import Done, EmbedWork, SearchWork, Vectors, Work, cache_key, queries_of, run_batch

_SLOW_QUERIES = 4
_SHORT_CHARS = 256
_QUICK_HITS = 50
_LEAST_QUICK_TIMEOUT_S = 0.1


class DeadlineError(TimeoutError):
    """The answer was not ready within the request's time."""


@dataclass(frozen=True)
class EngineLimits:
    """What one replica takes on."""

    max_batch_queries: int = 64
    max_queued_queries: int = 512
    max_query_chars: int = 8000
    request_timeout_s: float = 30.0
    max_rerank: int = 100
    busy_poll_ms: float = 0.0


@dataclass(frozen=True)
class Asked:
    """What came with a request besides its body: headers by lower-case name."""

    headers: Mapping[str, str] = field(default_factory=dict)
    deadline_ms: int | None = None


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
        self._batcher: Batcher[Work, Done] = Batcher(
            self._run,
            max_batch=self.limits.max_batch_queries,
            max_queued=self.limits.max_queued_queries,
            name="retort-search",
        )
        # A teacher takes a hundred times as long as a search: plain searches do not wait behind it.
        self._slow: Batcher[Work, Done] = Batcher(
            self._run, max_batch=_SLOW_QUERIES, max_queued=_slow_queue(self.limits), name="retort-rerank"
        )
        self._awake = Awake()
        self._shadows = Shadows(self._answer_shadow, lambda: self.queue_length() > 0, self.metrics)
        self.metrics.queued.set_function(self.queue_length)
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
        self._slow.max_queued = _slow_queue(limits)

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
            hybrid=searcher.words is not None,
            max_rerank=self.limits.max_rerank if searcher.reranker is not None else 0,
            examples=list(self._served.examples),
            max_query_chars=self.limits.max_query_chars,
        )

    async def search(self, request: SearchRequest, asked: Asked | None = None) -> SearchResponse | BatchSearchResponse:
        """Answer one request: OverloadedError when full, DeadlineError when late, ConfigError or NotFoundError when it does not fit."""
        began = time.perf_counter()
        served = self._served  # the one that this request keeps, whatever is swapped in meanwhile
        try:
            return await self._search(served, request, asked or Asked(), began)
        except Exception as error:
            seconds = time.perf_counter() - began
            # A search that is no plain one may take its time, or too long, by what it asks.
            late = isinstance(error, DeadlineError) and not _is_quick(request)
            if not late and _is_our_fault(error, seconds, self.limits.request_timeout_s):
                served.watch.failed()
            raise

    async def _search(
        self, served: Served, request: SearchRequest, asked: Asked, began: float
    ) -> SearchResponse | BatchSearchResponse:
        searcher = served.searcher
        self._check_supported(request, served)
        way = self._route(served, request, asked)
        encoder, _ = searcher.encoder(way.encoder)
        queries = queries_of(request, encoder)
        key = cache_key(request, encoder) if served.answers.keeps else None
        kept = None if key is None else served.answers.get(key)
        if kept is not None:
            done, stages = kept, dict.fromkeys(("queue", "encode", "search", "fetch"), 0.0)
        else:
            timeout_s = self._timeout_s(request.deadline_ms, asked.deadline_ms)
            batcher = self._batcher if request.rerank is None else self._slow
            quick = searcher.in_process and _is_quick(request)
            work, queued_s = await self._submit(SearchWork(served, queries), len(queries), timeout_s, batcher, quick)
            assert isinstance(work, list)
            done, stages = work, {"queue": queued_s * 1000, **work[0].stages_ms}
            if key is not None and not done[0].missing_shards:
                served.answers.put(key, done, sum(len(one.hits) for one in done))
        stages["total"] = (time.perf_counter() - began) * 1000
        tracing.stages(
            stages, {"retort.encoder": encoder, "retort.queries": len(queries), "retort.cached": kept is not None}
        )
        answered = Answered(served, queries, done, Route(encoder, way.by), stages, cached=kept is not None)
        # Done when the loop comes to it, and the answer has gone out by then.
        asyncio.get_running_loop().call_soon(self._account, answered)
        return answered.response(single=request.query is not None)

    def _account(self, answered: Answered) -> None:
        """Count an answer, tell the guard of it, perhaps ask a shadow, and stay awake for the next query."""
        if self._batcher.idle and self._slow.idle:
            self._awake.stay(self.limits.busy_poll_ms / 1000)
        served, queries, encoder = answered.served, answered.queries, answered.way.encoder
        self.metrics.cache(hit=answered.cached)
        self.metrics.answered(encoder, len(queries), {} if answered.cached else answered.stages_ms)
        self.metrics.routed(encoder, answered.way.by, degraded=bool(answered.missing_shards))
        if answered.cached:
            return
        self._shadows.consider(served, encoder, queries, answered.results)
        # The time of what costs as usual, without its wait for others: neither callers nor load may move the guard.
        plain = len(queries) == 1 and _is_plain(queries[0])
        served.watch.answered(answered.stages_ms["total"] - answered.stages_ms["queue"] if plain else None)

    def _timeout_s(self, *wanted_ms: int | None) -> float:
        """The shortest of the request's own deadlines and the endpoint's."""
        return min([self.limits.request_timeout_s, *(wanted / 1000 for wanted in wanted_ms if wanted is not None)])

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
        batcher = self._batcher if queries[0].rerank is None else self._slow
        done, _ = await self._submit(SearchWork(served, queries), len(queries), self.limits.request_timeout_s, batcher)
        assert isinstance(done, list)
        return done

    async def embed(self, request: EmbeddingsRequest, asked: Asked | None = None) -> tuple[Vectors, int]:
        """Vectors [n, dimension] float32 and the tokens read."""
        served = self._served
        encoder, model = served.searcher.encoder(None if request.model == "default" else request.model)
        if request.dimensions not in (None, model.dimension):
            raise ConfigError(
                f"dimensions is {request.dimensions}; encoder {encoder!r} has {model.dimension}. Leave it out."
            )
        self._check_lengths(request.texts, "input")
        began = time.perf_counter()
        work = EmbedWork(served, request.texts, encoder, request.input_type)
        timeout_s = self._timeout_s((asked or Asked()).deadline_ms)
        quick = all(map(_is_short, request.texts))
        done, queued_s = await self._submit(work, len(request.texts), timeout_s, self._batcher, quick)
        assert isinstance(done, tuple)
        total = time.perf_counter() - began
        self.metrics.answered(
            encoder, len(request.texts), {"queue": queued_s * 1000, "embed": (total - queued_s) * 1000}
        )
        return done

    async def close(self) -> None:
        """Refuse what comes, fail what waits."""
        await self._batcher.close()
        await self._slow.close()

    @property
    def retry_after_s(self) -> int:
        """Seconds after which a refused caller may try again."""
        return self._batcher.retry_after_s()

    def queue_length(self) -> int:
        """Queries waiting now."""
        return self._batcher.queued_weight + self._slow.queued_weight

    def stuck_s(self) -> float:
        """How long the present batch has been running, in seconds; 0 when idle."""
        return max(self._batcher.stuck_s(), self._slow.stuck_s())

    async def _submit(
        self, work: Work, weight: int, timeout_s: float, batcher: Batcher[Work, Done], quick: bool = False
    ) -> tuple[Done, float]:
        try:
            return await batcher.submit(
                work, weight, quick=quick and timeout_s >= _LEAST_QUICK_TIMEOUT_S, timeout_s=timeout_s
            )
        except TimeoutError:
            raise DeadlineError(f"No answer within {timeout_s:g} s: send the request again, or ask for less.") from None

    def _check_supported(self, request: SearchRequest, served: Served) -> None:
        self._check_lengths(request.texts, "query")
        name, searcher = served.identity.release, served.searcher
        if request.rerank is not None and searcher.reranker is None:
            raise ConfigError(f"rerank: release {name!r} has no re-ranking stage. Leave rerank out.")
        if request.rerank is not None and request.rerank * len(request.texts) > self.limits.max_rerank:
            raise ConfigError(
                f"rerank: {request.rerank} hits of {len(request.texts)} queries; at most {self.limits.max_rerank} hits a request are re-ranked."
            )
        if request.hybrid and searcher.words is None:
            raise ConfigError(f"hybrid: release {name!r} has no BM25 stage. Leave hybrid out.")
        if request.filters:
            searcher.check_filters(request.filters)  # found in a batch, it would have the whole batch run again

    def _check_lengths(self, texts: Sequence[str], field: str) -> None:
        longest = max(map(len, texts))
        if longest > self.limits.max_query_chars:
            raise ConfigError(f"{field} has {longest} characters; at most {self.limits.max_query_chars} are taken.")

    def _run(self, batch: Sequence[Work]) -> list[Done]:
        self.metrics.batch(sum(work.weight for work in batch))
        try:
            return run_batch(batch)
        except RetortError as error:
            if error.status >= 500 or isinstance(error, ConfigError | NotFoundError):
                raise
            # What encoders and indices say to the commands that use them, of vectors that do not fit: no caller made these.
            raise RetortError(str(error)) from error


def _is_quick(request: SearchRequest) -> bool:
    """Whether a search is encoding short texts and one look each into the index."""
    return _is_plain(request) and all(map(_is_short, request.texts))


def _is_plain(asked: SearchRequest | SearchQuery) -> bool:
    """Whether a search is no more than encoding and one look into the index for a page of usual depth."""
    return asked.offset + asked.k <= _QUICK_HITS and not (
        asked.rerank or asked.hybrid or asked.filters or asked.group_by
    )


def _is_short(text: str) -> bool:
    return len(text) <= _SHORT_CHARS


def _slow_queue(limits: EngineLimits) -> int:
    return limits.max_queued_queries // 4


def _is_our_fault(error: Exception, seconds: float, limit_s: float) -> bool:
    """Whether a failure speaks against the release: not what the caller asked wrongly, set too short, or came too many for."""
    if isinstance(error, DeadlineError):
        return seconds >= 0.9 * limit_s
    return not isinstance(error, RetortError) or (error.status >= 500 and not isinstance(error, OverloadedError))
