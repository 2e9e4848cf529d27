"""A sentence-level teacher behind HTTP: any service with the common `/rerank` shape (Cohere, Jina, TEI).

    RerankService        the settings: address, shape, limits, price; part of ScoreConfig
    ServiceJudge         asks it, one request per query and batch of its passages: a `scorer.Judge`
    Meter                what was asked and what it cost, with a cap

Cohere and Jina answer with probabilities; those are taken back through the sigmoid, for judgements hold logits. TEI is
asked for raw scores. The key comes from the environment only; it enters no config, message or log.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import httpx
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from retort.config import plain
from retort.errors import ConfigError, InputError, StorageError
from retort.teaching.scorer import Judge, Verdict

__all__ = ["CostCapError", "Meter", "RerankService", "ServiceJudge", "service_key", "service_totals"]

log = logging.getLogger(__name__)

MOST_CERTAIN = 1e-6  # a probability of 0 or 1 has no logit; this is about +-13.8


class CostCapError(InputError):
    """The next request would cost more than is allowed; what is complete is kept."""


class RerankService(BaseModel):
    """A reranking service over HTTP."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(pattern="^https?://", description="Address that requests are posted to, such as .../v2/rerank.")
    shape: Literal["cohere", "jina", "tei"] = Field("cohere", description="Which service's request and answer.")
    model: str | None = Field(None, description="Name of the service's model, where it has several.")
    key_env: str = plain(
        "RETORT_RERANK_KEY", description="Environment variable that holds the key; unset: no key is sent."
    )
    documents_per_request: int = plain(100, ge=1, le=1000, description="Passages sent with one query at most.")
    requests_per_minute: float = plain(600, gt=0, description="Requests per minute of all workers together.")
    attempts: int = plain(6, ge=1, le=20, description="Times a request is sent before the run gives up.")
    timeout_s: float = plain(60, gt=0, description="Seconds to wait for one answer.")
    price_per_request: float = plain(0.0, ge=0, description="What one request costs, in your currency.")
    max_cost: float | None = plain(None, gt=0, description="Cost at which this run stops. Default: no cap.")


@dataclass
class Meter:
    """What has been asked of the service, by one worker."""

    price_per_request: float = 0.0
    max_cost: float | None = None
    requests: int = 0
    documents: int = 0
    retries: int = 0
    cost: float = 0.0

    def charge(self, documents: int) -> None:
        """Count a request before it is sent; CostCapError when it would pass the cap."""
        if self.max_cost is not None and self.cost + self.price_per_request > self.max_cost + 1e-9:
            raise CostCapError(
                f"The reranking service has cost {self.cost:g}, and one more request of {self.price_per_request:g} would pass this worker's "
                f"share of max_cost ({self.max_cost:g}). Complete parts are kept: raise service.max_cost and run the same command to go on."
            )
        self.requests += 1
        self.documents += documents
        self.cost += self.price_per_request

    def totals(self) -> dict[str, float]:
        """What was asked and what it cost, as numbers about a part carry them."""
        return {
            "service_requests": self.requests,
            "service_documents": self.documents,
            "service_retries": self.retries,
            "service_cost": self.cost,
        }


def service_totals(stats: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the sum of `Meter.totals` over parts; {} where no service was asked."""
    return {
        name: sum(entry[name] for entry in stats) for name in Meter().totals() if any(name in entry for entry in stats)
    }


class _TryAgainError(Exception):
    """The service is busy or unreachable; `after_s` is what it said of when to come back."""

    def __init__(self, what: str, after_s: float | None = None) -> None:
        super().__init__(what)
        self.after_s = after_s


def service_key(service: RerankService) -> SecretStr | None:
    """Read the key from this process's environment; the driver does so, for workers on other machines do not have it.

    Raises:
        ConfigError: it cannot be sent as a header.
    """
    key = os.environ.get(service.key_env, "")
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"${service.key_env} holds characters that no HTTP header takes; set it to the key alone.")
    return SecretStr(key) if key else None


class ServiceJudge:
    """Judges pairs through a service; word maps come from a local cross-encoder, or are off."""

    def __init__(
        self,
        service: RerankService,
        *,
        key: SecretStr | None = None,
        words: Judge | None = None,
        workers: int = 1,
        client: httpx.Client | None = None,
    ) -> None:
        """`key` is what `service_key` read; `words` judges the same pairs for their word maps; `workers` share rate and cap."""
        self.service = service
        self._words = words
        cap = service.max_cost / workers if service.max_cost is not None else None
        self.meter = Meter(service.price_per_request, cap)
        self._between_s = 60.0 * workers / service.requests_per_minute
        self._next = 0.0
        headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key is not None else {}
        self._client = client or httpx.Client(timeout=service.timeout_s)
        self._client.headers.update(headers)

    @property
    def by_query(self) -> bool:
        """A request holds one query's passages, so pairs are wanted query by query."""
        return True

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Return one verdict per pair, in order.

        Raises:
            CostCapError: the cap is reached. StorageError: the service cannot be reached. ConfigError: it refuses the key.
            ValueError: it refuses these texts, or its answer has another shape.
        """
        of_query: dict[str, list[int]] = {}
        for position, (query, _) in enumerate(pairs):
            of_query.setdefault(query, []).append(position)
        scores = np.zeros(len(pairs))
        for query, positions in of_query.items():
            for start in range(0, len(positions), self.service.documents_per_request):
                some = positions[start : start + self.service.documents_per_request]
                scores[some] = self._ask(query, [pairs[position][1] for position in some])
        maps = self._words.judge(pairs) if self._words is not None else None
        return [
            Verdict(float(score), maps[i].window if maps else 0, maps[i].word_map if maps else None)
            for i, score in enumerate(scores)
        ]

    def _ask(self, query: str, passages: list[str]) -> list[float]:
        retrying = Retrying(
            stop=stop_after_attempt(self.service.attempts),
            wait=_wait,
            retry=retry_if_exception_type(_TryAgainError),
            before_sleep=self._count_retry,
            reraise=True,
        )
        try:
            return retrying(self._send, query, passages)
        except _TryAgainError as error:
            raise StorageError(
                f"The reranking service at {self.service.url} failed {self.service.attempts} times: {error}. Complete parts are kept; "
                "run the same command again later, or lower service.requests_per_minute."
            ) from None

    def _count_retry(self, state: RetryCallState) -> None:
        self.meter.retries += 1
        log.info("reranking service: try %d failed, trying again", state.attempt_number)

    def _send(self, query: str, passages: list[str]) -> list[float]:
        self.meter.charge(len(passages))
        self._pace()
        try:
            answer = self._client.post(self.service.url, json=self._body(query, passages))
        except httpx.TransportError as error:
            raise _TryAgainError(str(error) or type(error).__name__) from None
        if answer.status_code in (401, 403):
            raise ConfigError(
                f"{self.service.url} refused the key ({answer.status_code}). Put a valid one into ${self.service.key_env}."
            )
        if answer.status_code == 404:
            raise ConfigError(
                f"There is no reranking service at {self.service.url} (404). Check service.url and service.model."
            )
        if answer.status_code in (408, 409, 425, 429) or answer.status_code >= 500:
            raise _TryAgainError(f"status {answer.status_code}", _retry_after(answer))
        if not answer.is_success:
            raise ValueError(f"the service answered {answer.status_code}: {answer.text[:120]}")
        return self._scores(answer, len(passages))

    def _pace(self) -> None:
        """Wait for this worker's next slot."""
        now = time.monotonic()
        if now < self._next:
            time.sleep(self._next - now)
        self._next = max(now, self._next) + self._between_s

    def _body(self, query: str, passages: list[str]) -> dict[str, Any]:
        if self.service.shape == "tei":
            return {"query": query, "texts": passages, "raw_scores": True}
        body: dict[str, Any] = {"query": query, "documents": passages, "top_n": len(passages)}
        if self.service.shape == "jina":
            body["return_documents"] = False
        if self.service.model is not None:
            body["model"] = self.service.model
        return body

    def _scores(self, answer: httpx.Response, count: int) -> list[float]:
        """Logits in the order of the passages; ValueError for an answer of another shape."""
        try:
            rows = answer.json()
            rows = rows if self.service.shape == "tei" else rows["results"]
            name = "score" if self.service.shape == "tei" else "relevance_score"
            found = {int(row["index"]): float(row[name]) for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the service's answer is not of the shape {self.service.shape}: {error!r}") from None
        if sorted(found) != list(range(count)):
            raise ValueError(f"the service scored {len(found)} of {count} passages")
        scores = [found[i] for i in range(count)]
        return scores if self.service.shape == "tei" else [_logit(score) for score in scores]


def _logit(probability: float) -> float:
    clipped = min(max(probability, MOST_CERTAIN), 1 - MOST_CERTAIN)
    return float(np.log(clipped / (1 - clipped)))


def _retry_after(answer: httpx.Response) -> float | None:
    given = answer.headers.get("retry-after", "")
    return float(given) if given.isdecimal() else None


_backoff = wait_exponential_jitter(initial=0.5, max=60)


def _wait(state: RetryCallState) -> float:
    """What the service said, else exponential backoff with jitter."""
    failure = state.outcome.exception() if state.outcome is not None else None
    after = failure.after_s if isinstance(failure, _TryAgainError) else None
    return min(after, 120.0) if after is not None else _backoff(state)
