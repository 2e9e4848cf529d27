"""Every error as RFC 9457 problem details, and nothing of ours in an error of ours.

A RetortError is an answer: its status and its sentence go out. Anything else is a mistake of this program: the log gets
the traceback, the caller a plain 500 with the request id. Values from the request are never echoed: they can hold what
JSON cannot carry, and what logs should not.
"""

from __future__ import annotations

import http
import logging
import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from retort.errors import OverloadedError, RetortError
from retort.serving.engine import DeadlineError
from retort.serving.models import FieldProblem, Problem

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
REQUEST_ID = "retort.request_id"
"""Key of the request's id in the ASGI scope."""

_MAX_ERRORS = 20


class RequestError(Exception):
    """A request that is wrong as HTTP: `status`, a `slug` for its type, and the sentence for the caller."""

    def __init__(
        self,
        status: int,
        slug: str,
        detail: str,
        errors: Sequence[FieldProblem] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.slug, self.detail, self.headers = status, slug, detail, dict(headers or {})
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"
        self.errors = list(errors) if errors else None


def from_validation(error: ValidationError) -> RequestError:
    """400 for what is not JSON, else 422 naming each wrong field; the values stay out."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return RequestError(400, "not-json", f"The body is not JSON: {found[0]['msg'].removeprefix('Invalid JSON: ')}.")
    problems: dict[str, str] = {}
    for item in found:
        field, message = _field_and_message(item)
        # Of a union's many complaints the one that we wrote ourselves says most.
        if field not in problems or item["type"] == "value_error":
            problems[field] = message
    listed = [FieldProblem(field=field, message=message) for field, message in list(problems.items())[:_MAX_ERRORS]]
    detail = "; ".join(f"{item.field}: {item.message}" if item.field else item.message for item in listed[:5])
    return RequestError(422, "validation", f"The body does not fit: {detail}.", listed)


def _field_and_message(item: Any) -> tuple[str, str]:
    path = [_printable(str(part)) for part in item["loc"]]
    message = item["msg"].removeprefix("Value error, ")
    if path[:1] == ["filters"] and len(path) > 2:
        return ".".join(path[:2]), "expected a value, a list of values, or a range {gte, lt}"
    if path[:1] == ["input"] and len(path) > 1:
        kept = item["type"] in ("value_error", "too_long", "too_short")
        return "input", message if kept else "expected a text or a list of texts"
    if item["type"] == "extra_forbidden":
        message = "unknown field"
    return ".".join(path), message


def _printable(text: str) -> str:
    """A field name from the request, fit for a JSON answer and a log line."""
    return text.encode("ascii", "backslashreplace").decode().replace("\n", " ")[:80]


def problem(
    scope: Any,
    status: int,
    slug: str,
    detail: str,
    *,
    errors: Sequence[FieldProblem] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """The response for one problem."""
    body = Problem(
        type=f"urn:retort:problem:{slug}",
        title=slug.replace("-", " ").capitalize().replace("json", "JSON"),
        status=status,
        detail=detail,
        instance=_printable(scope.get("path", "")),
        request_id=scope.get(REQUEST_ID, ""),
        errors=list(errors) if errors else None,
    )
    return Response(
        body.model_dump_json(exclude_none=True),
        status,
        headers={"cache-control": "no-store", **(headers or {})},
        media_type=MEDIA_TYPE,
    )


def response_to(scope: Any, error: Exception, retry_after_s: int = 1) -> Response:
    """The response to any exception; those that are mistakes of ours are logged here."""
    if isinstance(error, RequestError):
        return problem(scope, error.status, error.slug, error.detail, errors=error.errors, headers=error.headers)
    if isinstance(error, OverloadedError):
        return problem(scope, 503, "overloaded", str(error), headers={"retry-after": str(retry_after_s)})
    if isinstance(error, DeadlineError):
        return problem(scope, 504, "deadline", str(error))
    if isinstance(error, RetortError) and error.status < 500:
        return problem(scope, error.status, _slug(type(error).__name__), str(error))
    if isinstance(error, HTTPException):
        return _from_http(scope, error)
    log.error("request %s to %s failed", scope.get(REQUEST_ID, ""), _printable(scope.get("path", "")), exc_info=error)
    return problem(
        scope, 500, "internal", "This is a mistake of ours. The log holds the details under this request id."
    )


def _from_http(scope: Any, error: HTTPException) -> Response:
    phrase = http.HTTPStatus(error.status_code).phrase
    path = _printable(scope.get("path", ""))
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == 404:
        detail = f"There is nothing at {path}. See /docs for what there is."
    elif error.status_code == 405:
        detail = f"{path} does not take {_printable(scope.get('method', ''))}; it takes {headers.get('allow', 'another method')}."
    else:
        detail = phrase
    return problem(scope, error.status_code, phrase.lower().replace(" ", "-"), detail, headers=headers)


def _slug(class_name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", class_name.removesuffix("Error")).lower()


ANSWERED = (RequestError, RetortError, DeadlineError, HTTPException)
"""The exceptions that `on_error` answers; any other is a mistake of ours."""


async def on_error(request: Request, error: Exception) -> Response:
    """FastAPI's handler for every exception class that we answer."""
    engine = getattr(request.app.state, "engine", None)
    return response_to(request.scope, error, engine().retry_after_s if engine else 1)
