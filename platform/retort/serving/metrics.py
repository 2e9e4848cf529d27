"""Numbers about the endpoint, in Prometheus's form: requests, stages, batches, queue.

Each replica has its own registry, labelled with its id; `/metrics` puts those of all together (metrics_exchange.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ServingMetrics:
    """All metrics of one replica."""

    def __init__(self, replica: str = "") -> None:
        self.registry = CollectorRegistry()
        self._replica = replica
        self._children: dict[tuple[Any, ...], Any] = {}
        label = ("replica",)
        self._requests = Counter(
            "retort_requests", "HTTP requests answered.", ("route", "status", *label), registry=self.registry
        )
        self._seconds = Histogram(
            "retort_request_seconds",
            "Time to answer an HTTP request.",
            ("route", *label),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._stages = Histogram(
            "retort_stage_seconds",
            "Time per stage of a request.",
            ("stage", *label),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._batch = Histogram(
            "retort_batch_queries", "Queries per batch.", label, registry=self.registry, buckets=_SIZES
        ).labels(replica)
        self._queries = Counter("retort_queries", "Queries answered.", ("encoder", *label), registry=self.registry)
        self._refused = Counter(
            "retort_refused", "Requests refused because the queue was full.", label, registry=self.registry
        ).labels(replica)
        self.queued = Gauge(
            "retort_queued_queries", "Queries waiting for a batch.", label, registry=self.registry
        ).labels(replica)

        self._version = Gauge(
            "retort_release_version", "Version of the release that answers.", label, registry=self.registry
        ).labels(replica)
        self._changes = Counter(
            "retort_release_changes", "Changes of the release.", ("outcome", *label), registry=self.registry
        )
        for outcome in ("applied", "refused", "taken_back"):
            self._changes.labels(outcome, replica)
        self._load = Gauge(
            "retort_release_load_seconds",
            "How long the release that answers took to load and check.",
            label,
            registry=self.registry,
        ).labels(replica)

        self._routed = Counter(
            "retort_routed",
            "Requests by query encoder and what chose it.",
            ("encoder", "by", *label),
            registry=self.registry,
        )
        self._degraded = Counter(
            "retort_degraded", "Answers from which a shard was missing.", label, registry=self.registry
        ).labels(replica)
        self._cache = Counter(
            "retort_cache",
            "Searches by whether the same one was answered before.",
            ("outcome", *label),
            registry=self.registry,
        )
        self._cache_hit, self._cache_miss = (self._cache.labels(outcome, replica) for outcome in ("hit", "miss"))
        self._shadows = Counter(
            "retort_shadow", "Requests for shadow encoders.", ("encoder", "outcome", *label), registry=self.registry
        )
        self._overlap = Histogram(
            "retort_shadow_overlap",
            "Share of the first 10 passages that a shadow encoder found too.",
            ("encoder", *label),
            registry=self.registry,
            buckets=_SHARES,
        )
        self._shadow_seconds = Histogram(
            "retort_shadow_seconds",
            "Time that a shadow encoder's search took, without waiting.",
            ("encoder", *label),
            registry=self.registry,
            buckets=_SECONDS,
        )

    def routed(self, encoder: str, by: str, *, degraded: bool) -> None:
        """Count one request's way, and whether shards were missing from its answer."""
        if degraded:
            self._degraded.inc()
        self._child(self._routed, encoder, by).inc()

    def cache(self, *, hit: bool) -> None:
        """Count one look into the cache of answers."""
        (self._cache_hit if hit else self._cache_miss).inc()

    def shadow_answered(self, encoder: str, overlap: float, stages_ms: Mapping[str, float]) -> None:
        """Count a shadow's answer to one query."""
        self._shadows.labels(encoder, "answered", self._replica).inc()
        self._overlap.labels(encoder, self._replica).observe(overlap)
        self._shadow_seconds.labels(encoder, self._replica).observe(sum(stages_ms.values()) / 1000)

    def shadow_dropped(self, encoder: str) -> None:
        """Count a request that a shadow was not asked, because there was other work."""
        self._shadows.labels(encoder, "dropped", self._replica).inc()

    def shadow_failed(self, encoder: str) -> None:
        """Count a request that a shadow failed."""
        self._shadows.labels(encoder, "failed", self._replica).inc()

    def serving(self, version: int) -> None:
        """Say which version of the release answers from now on."""
        self._version.set(version)

    def loaded(self, seconds: float) -> None:
        """Say how long that version took to load and check."""
        self._load.set(seconds)

    def change(self, outcome: str) -> None:
        """Count a change of the release: applied, refused, or taken_back by the guard."""
        self._changes.labels(outcome, self._replica).inc()

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count one HTTP answer; `route` is a route's pattern, never a raw path."""
        self._child(self._requests, route, str(status)).inc()
        self._child(self._seconds, route).observe(seconds)
        if status == 503:
            self._refused.inc()

    def batch(self, queries: int) -> None:
        """Count one batch."""
        self._batch.observe(queries)

    def answered(self, encoder: str, queries: int, stages_ms: Mapping[str, float]) -> None:
        """Count the queries of one request and the time of each stage (milliseconds)."""
        self._child(self._queries, encoder).inc(queries)
        for stage, milliseconds in stages_ms.items():
            self._child(self._stages, stage).observe(milliseconds / 1000)

    def _child(self, metric: Any, *values: str) -> Any:
        """The metric with these labels; looked up once, because prometheus_client's own look-up takes a lock."""
        key = (metric, *values)
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = metric.labels(*values, self._replica)
        return found

    def render(self) -> bytes:
        """The text format."""
        return generate_latest(self.registry)
