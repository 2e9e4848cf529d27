"""One JSON line per request: what came, who answered, how long it took. No query text, unless that is asked for.

Routes write what they know into the request's `facts`; the middleware writes the line when the answer has gone out.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, Literal

__all__ = ["FACTS", "Journal", "Level", "facts_of"]

Level = Literal["off", "requests", "queries"]
FACTS = "retort.facts"
"""Key of the request's facts in the ASGI scope."""

LOGGER = "retort.requests"


def facts_of(scope: MutableMapping[str, Any]) -> dict[str, Any]:
    """The facts of a request, to be added to."""
    facts: dict[str, Any] = scope.setdefault(FACTS, {})
    return facts


class Journal:
    """Writes the lines to the logger `retort.requests`; to stderr where nobody has given that logger a handler."""

    def __init__(self, level: Level = "off", replica: str = "") -> None:
        self._level, self._replica = level, replica
        self._log = logging.getLogger(LOGGER)
        if level != "off":
            self._log.setLevel(logging.INFO)
            self._log.propagate = False
            if not self._log.handlers:
                handler = logging.StreamHandler(sys.stderr)
                handler.setFormatter(logging.Formatter("%(message)s"))
                self._log.addHandler(handler)

    def write(self, scope: MutableMapping[str, Any], route: str, status: int, seconds: float, request_id: str) -> None:
        """The line of one request."""
        if self._level == "off":
            return
        facts = {name: value for name, value in facts_of(scope).items() if name != "texts" or self._level == "queries"}
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": request_id,
            "replica": self._replica,
            "method": scope.get("method", ""),
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 2),
            **facts,
        }
        # ASCII: a log line holds no line ends or terminal codes, whatever the query held.
        self._log.info(json.dumps(line, ensure_ascii=True, separators=(",", ":")))
