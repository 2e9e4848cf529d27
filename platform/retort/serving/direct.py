"""A FastAPI application some of whose paths are answered without it: for queries its middlewares and routing do nothing but take time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from retort.serving.problems import ANSWERED, on_error

__all__ = ["DirectApp"]


class DirectApp(FastAPI):
    """FastAPI for everything but what `answer_directly` names."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._direct: dict[str, ASGIApp] = {}

    def answer_directly(
        self, path: str, endpoint: Callable[[Request], Awaitable[Response]], shell: Callable[[ASGIApp], ASGIApp]
    ) -> None:
        """Answer POST requests for `path` by `endpoint` in `shell`; FastAPI's own route of that path describes it, and refuses other methods."""
        route = Route(path, endpoint, methods=["POST"])  # what the scope of a routed request names

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            scope["app"], scope["route"] = self, route
            request = Request(scope, receive, send)
            try:
                response = await endpoint(request)
            except ANSWERED as error:
                response = await on_error(request, error)
            await response(scope, receive, send)

        self._direct[path] = shell(answer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        direct = None
        if scope["type"] == "http" and scope["method"] == "POST":
            direct = self._direct.get(scope["path"].removeprefix(scope.get("root_path", "")))
        await (direct or super().__call__)(scope, receive, send)
