"""Replicas tell each other their metrics, so that `/metrics` of any of them has all: a scrape through the proxy meets only one.

Each puts its text on a board that all can read (Ray's cluster-wide key-value store; see deployments.py) every few seconds.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

log = logging.getLogger(__name__)

_PERIOD_S = 2.0
_STALE_S = 15.0


class Board(Protocol):
    """Small texts by name, seen by all replicas."""

    def put(self, name: str, text: str) -> None:
        """Write or replace one."""

    def all(self) -> dict[str, str]:
        """All of them."""

    def remove(self, name: str) -> None:
        """Take one away."""


class MetricsExchange:
    """One replica's side of it, on a thread of its own."""

    def __init__(self, board: Board, replica: str, render: Callable[[], str], period_s: float = _PERIOD_S) -> None:
        self._board, self._replica, self._render, self._period_s = board, replica, render, period_s
        self._others: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retort-metrics", daemon=True)

    def start(self) -> None:
        """Begin to tell and to read."""
        self._thread.start()

    def stop(self) -> None:
        """End, and take this replica's text away."""
        self._ended.set()
        with suppress(Exception):  # the cluster may be going down
            self._board.remove(self._replica)

    def others(self) -> list[str]:
        """Texts of the other replicas that are alive, as they were some seconds ago."""
        return self._others

    def turn(self) -> None:
        """Tell once, read once."""
        now = time.time()
        self._board.put(self._replica, json.dumps({"at": now, "text": self._render()}))
        others = []
        for name, value in self._board.all().items():
            if name == self._replica:
                continue
            record = json.loads(value)
            if record["at"] > now - _STALE_S:
                others.append(record["text"])
            elif record["at"] < now - 10 * _STALE_S:
                self._board.remove(name)  # it was killed
        self._others = others

    def _run(self) -> None:
        failing = False
        while not self._ended.wait(self._period_s):
            try:
                self.turn()
                failing = False
            except Exception as error:  # metrics are never worth a request
                if not failing:
                    log.warning("cannot exchange metrics: %s", error)
                failing = True
