"""One request's answer: what was found, by what, how long it took; and the response that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retort.serving.models import BatchSearchResponse, QueryHits, ReleaseStamp, SearchResponse, Timings
from retort.serving.routing import Route
from retort.serving.searcher import SearchQuery, SearchResult
from retort.serving.served import Served

__all__ = ["Answered"]


@dataclass(frozen=True, slots=True)
class Answered:
    """The results of one request's queries, in their order."""

    served: Served
    queries: Sequence[SearchQuery]
    results: Sequence[SearchResult]
    way: Route
    stages_ms: Mapping[str, float]
    cached: bool

    @property
    def missing_shards(self) -> Sequence[int]:
        """Shards that did not answer in time."""
        return self.results[0].missing_shards

    def response(self, *, single: bool) -> SearchResponse | BatchSearchResponse:
        """The body of the answer, to one query or to several."""
        searcher, identity, encoder = self.served.searcher, self.served.identity, self.way.encoder
        # Our own values, made as the models want them: nothing is checked once more.
        timings: dict[str, Any] = {stage: round(value, 3) for stage, value in self.stages_ms.items()}
        common: dict[str, Any] = {
            "release": ReleaseStamp(
                name=identity.release,
                version=identity.version,
                index=identity.index_digest,
                encoder=encoder,
                encoder_digest=identity.encoder_digests[encoder],
                routed_by=self.way.by,
            ),
            "score_kind": searcher.score_kind(self.queries[0]),
            "timings_ms": Timings(**timings),
            "cached": self.cached,
            "degraded": bool(self.missing_shards),
            "missing_shards": list(self.missing_shards),
        }
        if single:
            return SearchResponse.model_construct(hits=self.results[0].hits, **common)
        results = [QueryHits.model_construct(hits=result.hits) for result in self.results]
        return BatchSearchResponse.model_construct(results=results, **common)
