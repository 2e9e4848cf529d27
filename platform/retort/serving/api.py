"""The HTTP application: routes, bodies, and the OpenAPI document. No Ray: `create_app(lambda: engine)` runs under any ASGI server.

POST /v1/search  POST /v1/embeddings  GET /v1/info
GET /healthz  GET /readyz  GET /metrics  GET /openapi.json  GET /docs  GET /
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from fastapi import FastAPI, Request
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from retort import __version__
from retort.errors import OverloadedError
from retort.serving.direct import DirectApp
from retort.serving.engine import Asked, SearchEngine
from retort.serving.gate import OPEN, Caller, Gate
from retort.serving.journal import Journal, facts_of
from retort.serving.keys import Scope
from retort.serving.limits import BODY_TIMEOUT_S, RequestShell, read_body
from retort.serving.metrics import CONTENT_TYPE, ServingMetrics
from retort.serving.metrics_text import merged
from retort.serving.models import (
    BatchSearchResponse,
    EmbeddingItem,
    EmbeddingsRequest,
    EmbeddingsResponse,
    EmbeddingUsage,
    Problem,
    SearchRequest,
    SearchResponse,
    ServiceInfo,
)
from retort.serving.pages import page_response
from retort.serving.problems import ANSWERED, MEDIA_TYPE, RequestError, from_validation, on_error
from retort.serving.work import Vectors

MAX_BODY_BYTES = 1 << 20
DEADLINE_HEADER = "x-deadline-ms"

Model = TypeVar("Model", bound=BaseModel)
_MODELS = (
    SearchRequest,
    SearchResponse,
    BatchSearchResponse,
    EmbeddingsRequest,
    EmbeddingsResponse,
    ServiceInfo,
    Problem,
)
_PROBLEMS = {
    400: "The body is not JSON.",
    401: "An API key is needed, or this one is not valid.",
    403: "The API key is not for this.",
    404: "No such encoder.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    422: "A field does not fit.",
    429: "More queries than the key allows: try again after Retry-After seconds.",
    503: "Too much at once: try again after Retry-After seconds.",
    504: "Not ready in time.",
}


def create_app(
    engine: Callable[[], SearchEngine],
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
    body_timeout_s: float = BODY_TIMEOUT_S,
    send_request_id: bool = True,
    gate: Gate = OPEN,
    journal: Journal | None = None,
    other_metrics: Callable[[], Sequence[str]] = tuple,
) -> FastAPI:
    """The application over `engine()`, which is called per request so that a release can be swapped beneath it.

    `engine()` raises OverloadedError while nothing is loaded yet. `gate` decides who may ask how much; `journal` gets a line
    per request; `other_metrics` gives the metrics of the other replicas, as text.
    """
    # FastAPI's own spans (from 0.165 on; versions before ignore the argument) would double ours and log what ours leave out.
    quiet: Any = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans"), False)
    app = DirectApp(
        title="Retort search", version=__version__, docs_url=None, redoc_url=None, openapi_url=None, telemetry=quiet
    )
    app.state.engine = engine
    for kind in ANSWERED:
        app.add_exception_handler(kind, on_error)
    before_ready = ServingMetrics()

    def observe(route: str, status: int, seconds: float) -> None:
        try:
            metrics = engine().metrics
        except OverloadedError:
            metrics = before_ready
        metrics.request(route, status, seconds)

    shell = partial(RequestShell, observe=observe, send_id=send_request_id, journal=journal)
    app.add_middleware(shell)
    _add_queries(app, shell, engine, gate, partial(read_body, limit_bytes=max_body_bytes, timeout_s=body_timeout_s))
    _add_operations(app, engine, gate, other_metrics)
    _add_pages(app)
    return app


def _add_queries(
    app: DirectApp,
    shell: Callable[[ASGIApp], ASGIApp],
    engine: Callable[[], SearchEngine],
    gate: Gate,
    body_of: Callable[[Request], Awaitable[bytes]],
) -> None:
    async def search(request: Request) -> Response:
        """Find passages for a query, or for several queries that share every other setting."""
        caller = _identified(request, gate, "search")
        body = _parse(SearchRequest, await body_of(request))
        facts = facts_of(request.scope)
        facts.update(queries=len(body.texts), k=body.k, texts=body.texts)
        await gate.charge(caller, len(body.texts))
        answer = await engine().search(body, _asked(request))
        facts.update(encoder=answer.release.encoder, release=answer.release.name, version=answer.release.version)
        facts.update(cached=answer.cached, routed_by=answer.release.routed_by)
        return _json(answer)

    async def embeddings(request: Request) -> Response:
        """Vectors of texts, in the shape of OpenAI's endpoint."""
        caller = _identified(request, gate, "search")
        body = _parse(EmbeddingsRequest, await body_of(request))
        facts_of(request.scope).update(queries=len(body.texts), encoder=body.model, texts=body.texts)
        await gate.charge(caller, len(body.texts))
        vectors, tokens = await engine().embed(body, _asked(request))
        return _json(_embeddings_response(body, vectors, tokens))

    async def info(request: Request) -> Response:
        """What is being served."""
        _identified(request, gate, "search")
        return _json(engine().info())

    answers = [_ref(SearchResponse), _ref(BatchSearchResponse)]
    app.add_api_route(
        "/v1/search", search, methods=["POST"], summary="Search", **_described(SearchRequest, {"anyOf": answers})
    )
    app.add_api_route(
        "/v1/embeddings",
        embeddings,
        methods=["POST"],
        summary="Embed texts",
        **_described(EmbeddingsRequest, _ref(EmbeddingsResponse)),
    )
    app.add_api_route(
        "/v1/info", info, methods=["GET"], summary="What is served", **_described(None, _ref(ServiceInfo))
    )
    app.answer_directly("/v1/search", search, shell)
    app.answer_directly("/v1/embeddings", embeddings, shell)


def _identified(request: Request, gate: Gate, scope: Scope) -> Caller:
    caller = gate.identify(request.headers, scope)
    facts_of(request.scope)["key"] = caller.id
    return caller


def _add_operations(
    app: FastAPI, engine: Callable[[], SearchEngine], gate: Gate, other_metrics: Callable[[], Sequence[str]]
) -> None:
    async def healthz() -> Response:
        """Whether this process answers."""
        return Response('{"status":"ok"}', media_type="application/json")

    async def readyz() -> Response:
        """Whether queries can be answered now: 503 while loading."""
        return JSONResponse({"status": "ready", "release": engine().info().release})

    async def metrics(request: Request) -> Response:
        """Prometheus metrics of all replicas; those of others are some seconds old."""
        _identified(request, gate, "admin")
        text = merged([engine().metrics.render().decode(), *other_metrics()])
        return Response(text, headers={"content-type": CONTENT_TYPE})

    plain: dict[str, Any] = {"response_model": None, "response_class": Response}
    app.add_api_route("/healthz", healthz, methods=["GET"], summary="Alive", **plain)
    app.add_api_route("/readyz", readyz, methods=["GET"], summary="Ready", **plain)
    app.add_api_route("/metrics", metrics, methods=["GET"], summary="Metrics", **plain)


def _add_pages(app: FastAPI) -> None:
    document: dict[str, Any] = {}

    async def openapi() -> Response:
        if not document:
            document.update(openapi_document(app))
        return JSONResponse(document)

    async def docs() -> Response:
        return page_response("docs.html")

    async def page() -> Response:
        return page_response("index.html")

    for path, endpoint in (("/openapi.json", openapi), ("/docs", docs), ("/", page)):
        app.add_api_route(path, endpoint, methods=["GET"], include_in_schema=False, response_model=None)


def _parse(model: type[Model], body: bytes) -> Model:
    """Bytes to the model by one strict JSON reader."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise from_validation(error) from None


def _asked(request: Request) -> Asked:
    """What the headers say; RequestError 400 for a deadline that is none."""
    given = request.headers.get(DEADLINE_HEADER)
    if given is None:
        return Asked(headers=request.headers)
    if not (given.isascii() and given.isdecimal() and int(given[:9]) >= 1 and len(given) < 8):
        raise RequestError(
            400, "bad-request", f"The header {DEADLINE_HEADER} is not a number of milliseconds from 1 on."
        )
    return Asked(headers=request.headers, deadline_ms=int(given))


def _json(model: BaseModel) -> Response:
    return Response(model.__pydantic_serializer__.to_json(model), media_type="application/json")


def _embeddings_response(request: EmbeddingsRequest, vectors: Vectors, tokens: int) -> EmbeddingsResponse:
    rows: list[list[float] | str]
    if request.encoding_format == "base64":
        rows = [base64.b64encode(np.ascontiguousarray(row, dtype="<f4").tobytes()).decode() for row in vectors]
    else:
        rows = [row.tolist() for row in vectors]
    return EmbeddingsResponse(
        data=[EmbeddingItem(index=number, embedding=row) for number, row in enumerate(rows)],
        model=request.model,
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
    )


# The OpenAPI document. Bodies are read by hand (above), so their schemas are put in by hand too.


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _described(body: type[BaseModel] | None, answer: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of add_api_route that describe body, answer and problems."""
    responses: dict[int | str, dict[str, Any]] = {
        200: {"description": "The answer.", "content": {"application/json": {"schema": answer}}}
    }
    codes = _PROBLEMS if body is not None else {status: _PROBLEMS[status] for status in (401, 403, 503)}
    for status, text in codes.items():
        responses[status] = {"description": text, "content": {MEDIA_TYPE: {"schema": _ref(Problem)}}}
    extra = None
    if body is not None:
        extra = {"requestBody": {"required": True, "content": {"application/json": {"schema": _ref(body)}}}}
    return {"response_model": None, "response_class": Response, "responses": responses, "openapi_extra": extra}


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI 3.1 document, with the schemas of all models."""
    document = app.openapi()
    _, definitions = models_json_schema(
        [(model, "validation") for model in _MODELS], ref_template="#/components/schemas/{model}"
    )
    document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
    # Bodies may come without a key where the endpoint asks for none.
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{}, {"key": []}]
    document["info"]["description"] = (
        "Dense retrieval: queries to passages, texts to vectors. Errors are RFC 9457 problem details."
    )
    return document
