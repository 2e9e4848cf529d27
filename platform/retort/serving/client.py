"""A small client for the endpoint: `Client` and `AsyncClient`, the same calls.

    with Client("http://127.0.0.1:8000") as client:
        for hit in client.search("how do I read a file", k=5).hits: ...
        vectors = client.embeddings(["a text"])

An API key is given as `api_key`, or in $RETORT_API_KEY. Search is idempotent, so a request that met a failed connection or a 503 is sent once more.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from retort.errors import InputError, OverloadedError, RetortError
from retort.serving.models import BatchSearchResponse, EmbeddingsResponse, SearchResponse, ServiceInfo

DEFAULT_URL = "http://127.0.0.1:8000"
KEY_VARIABLE = "RETORT_API_KEY"
_LONGEST_WAIT_S = 5.0


class EndpointError(RetortError):
    """The endpoint answered with a problem; `problem` is its body."""

    def __init__(self, status: int, detail: str, problem: Mapping[str, Any]) -> None:
        super().__init__(detail)
        self.status, self.problem = status, dict(problem)


class _Calls:
    """Requests and answers, without sending."""

    def __init__(self, url: str, api_key: str | None) -> None:
        self.url = url.rstrip("/")
        key = api_key or os.environ.get(KEY_VARIABLE)
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        # A proxy from the environment cannot reach this machine's own loopback.
        self._trust_env = httpx.URL(self.url).host not in ("127.0.0.1", "localhost", "::1")

    @staticmethod
    def _search_body(query: str | Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
        text = {"query": query} if isinstance(query, str) else {"queries": list(query)}
        return {**text, **{name: value for name, value in options.items() if value is not None}}

    @staticmethod
    def _embeddings_body(texts: str | Sequence[str], encoder: str, input_type: str) -> dict[str, Any]:
        return {"input": texts if isinstance(texts, str) else list(texts), "model": encoder, "input_type": input_type}

    @staticmethod
    def _vectors(answer: Any) -> NDArray[np.float32]:
        items = EmbeddingsResponse.model_validate(answer).data
        return np.array([item.embedding for item in sorted(items, key=lambda item: item.index)], dtype=np.float32)

    def _taken(self, answer: httpx.Response) -> Any:
        if answer.is_success:
            return answer.json()
        try:
            problem = answer.json()
        except ValueError:
            problem = {}
        detail = problem.get("detail") if isinstance(problem, dict) else None
        message = f"{self.url} answered {answer.status_code}: {detail or answer.text[:200] or answer.reason_phrase}"
        if answer.status_code == 503:
            raise OverloadedError(message)
        raise EndpointError(answer.status_code, message, problem if isinstance(problem, dict) else {})

    def _unreachable(self, error: httpx.TransportError) -> InputError:
        return InputError(
            f"No answer from {self.url} ({str(error) or type(error).__name__}). Is it running? Start it with: retort serve INDEX"
        )


def _wait_s(answer: httpx.Response | None) -> float:
    """How long to wait before the second try: what Retry-After says, at most five seconds."""
    given = answer.headers.get("retry-after", "") if answer is not None else ""
    return min(float(given), _LONGEST_WAIT_S) if given.isdecimal() else 0.2


class Client(_Calls):
    """Synchronous client; also a context manager."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        timeout_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
        api_key: str | None = None,
    ) -> None:
        super().__init__(url, api_key)
        self._http = httpx.Client(
            base_url=self.url,
            timeout=timeout_s,
            transport=transport,
            trust_env=self._trust_env,
            headers=self._headers,
        )

    def search(self, query: str, k: int = 10, **options: Any) -> SearchResponse:
        """Hits for one query; options as in the endpoint's SearchRequest (offset, encoder, filters, group_by...)."""
        return SearchResponse.model_validate(
            self._send("POST", "/v1/search", self._search_body(query, {"k": k, **options}))
        )

    def search_many(self, queries: Sequence[str], k: int = 10, **options: Any) -> BatchSearchResponse:
        """Hits for several queries at once."""
        return BatchSearchResponse.model_validate(
            self._send("POST", "/v1/search", self._search_body(queries, {"k": k, **options}))
        )

    def embeddings(
        self, texts: str | Sequence[str], encoder: str = "default", input_type: Literal["query", "passage"] = "query"
    ) -> NDArray[np.float32]:
        """Vectors [n, dimension] float32, in the order of `texts`."""
        return self._vectors(self._send("POST", "/v1/embeddings", self._embeddings_body(texts, encoder, input_type)))

    def info(self) -> ServiceInfo:
        """What is being served."""
        return ServiceInfo.model_validate(self._send("GET", "/v1/info"))

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        for last in (False, True):
            answer = None
            try:
                answer = self._http.request(method, path, json=body)
            except httpx.TransportError as error:
                if last or isinstance(error, httpx.TimeoutException):
                    raise self._unreachable(error) from None
            if answer is not None and (last or answer.status_code != 503):
                return self._taken(answer)
            time.sleep(_wait_s(answer))
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class AsyncClient(_Calls):
    """Asynchronous client; also an asynchronous context manager."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        timeout_s: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
        api_key: str | None = None,
    ) -> None:
        super().__init__(url, api_key)
        self._http = httpx.AsyncClient(
            base_url=self.url,
            timeout=timeout_s,
            transport=transport,
            trust_env=self._trust_env,
            headers=self._headers,
        )

    async def search(self, query: str, k: int = 10, **options: Any) -> SearchResponse:
        """As Client.search."""
        return SearchResponse.model_validate(
            await self._send("POST", "/v1/search", self._search_body(query, {"k": k, **options}))
        )

    async def search_many(self, queries: Sequence[str], k: int = 10, **options: Any) -> BatchSearchResponse:
        """As Client.search_many."""
        body = self._search_body(queries, {"k": k, **options})
        return BatchSearchResponse.model_validate(await self._send("POST", "/v1/search", body))

    async def embeddings(
        self, texts: str | Sequence[str], encoder: str = "default", input_type: Literal["query", "passage"] = "query"
    ) -> NDArray[np.float32]:
        """As Client.embeddings."""
        return self._vectors(
            await self._send("POST", "/v1/embeddings", self._embeddings_body(texts, encoder, input_type))
        )

    async def info(self) -> ServiceInfo:
        """What is being served."""
        return ServiceInfo.model_validate(await self._send("GET", "/v1/info"))

    async def _send(self, method: str, path: str, body: Any = None) -> Any:
        for last in (False, True):
            answer = None
            try:
                answer = await self._http.request(method, path, json=body)
            except httpx.TransportError as error:
                if last or isinstance(error, httpx.TimeoutException):
                    raise self._unreachable(error) from None
            if answer is not None and (last or answer.status_code != 503):
                return self._taken(answer)
            await asyncio.sleep(_wait_s(answer))
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Close connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
