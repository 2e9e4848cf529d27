"""What stands round every request: its id, the size of its body and its time, the request's clock, and the last net for mistakes of ours."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retort.serving.journal import Journal
from retort.serving.problems import REQUEST_ID, RequestError, response_to
from retort.serving.tracing import failed, request_span

BODY_TIMEOUT_S = 30.0
_GOOD_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")
_DRAIN_FACTOR = 8
_NOSNIFF = (b"x-content-type-options", b"nosniff")


class RequestShell:
    """ASGI middleware, outermost. `observe(route, status, seconds)` is told of every answer, `journal` has a line for each.

    Under Ray Serve the proxy already sends the request's id back (`send_id=False`), from the same header.
    """

    def __init__(
        self,
        app: ASGIApp,
        observe: Callable[[str, int, float], None],
        send_id: bool = True,
        journal: Journal | None = None,
    ) -> None:
        self._app, self._observe, self._send_id, self._journal = app, observe, send_id, journal or Journal()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; other ASGI messages pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        came = Headers(scope=scope)
        given = came.get("x-request-id", "")
        scope[REQUEST_ID] = given if _GOOD_ID.fullmatch(given) else uuid.uuid4().hex
        began = time.perf_counter()
        status = 0

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = [_NOSNIFF]
                if self._send_id:
                    added.append((b"x-request-id", scope[REQUEST_ID].encode("ascii")))
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        with request_span(f"{scope['method']} {scope['path']}"[:100], came) as span:
            try:
                await self._app(scope, receive, stamped)
            except ClientDisconnect:
                status = 499
            except Exception as error:
                if status:
                    raise  # the answer has begun: the server can only cut it off
                await response_to(scope, error)(scope, receive, stamped)
            finally:
                seconds = time.perf_counter() - began
                route = getattr(scope.get("route"), "path", "other")
                self._observe(route, status or 499, seconds)
                self._journal.write(scope, route, status or 499, seconds, scope[REQUEST_ID])
                span.set_attributes({"http.route": route, "http.response.status_code": status or 499})
                if status >= 500:
                    failed(span, status)


def late_body(timeout_s: float) -> RequestError:
    """What is said to a body that has not come whole in time."""
    # Closing says that nobody reads the rest, which may come for ever.
    return RequestError(
        408,
        "body-timeout",
        f"The body did not come whole within {timeout_s:g} s: send the request again.",
        headers={"connection": "close"},
    )


async def read_body(request: Request, limit_bytes: int, timeout_s: float = BODY_TIMEOUT_S) -> bytes:
    """The whole body; RequestError 413 above the limit, 415 for a type that is not JSON, 400 for a wrong length, 408 when late."""
    kind = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise RequestError(
            415, "unsupported-media-type", "The body must be JSON: send the header Content-Type: application/json."
        )
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal():
        raise RequestError(400, "bad-request", "The header Content-Length is not a number.")
    body, size = b"", 0
    if int(declared) <= _DRAIN_FACTOR * limit_bytes:
        try:
            async with asyncio.timeout(timeout_s):
                body, size = await _drained(request, limit_bytes)
        except TimeoutError:
            raise late_body(timeout_s) from None
    if max(size, int(declared)) > limit_bytes:
        raise RequestError(
            413, "body-too-large", f"The body is larger than {limit_bytes} bytes. Send fewer or shorter queries."
        )
    return body


async def _drained(request: Request, limit_bytes: int) -> tuple[bytes, int]:
    """The body as far as the limit, and the bytes that came."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        # Read on for a while without keeping: a client that is still sending would not see the answer.
        if size <= limit_bytes:
            chunks.append(chunk)
        elif size > _DRAIN_FACTOR * limit_bytes:
            break
    return b"".join(chunks), size
