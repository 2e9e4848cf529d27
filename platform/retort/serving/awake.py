"""An event loop that polls for a moment before it sleeps.

A core that has gone to sleep takes a lone client's next query a part of a millisecond to wake, and then runs it slower for a while; on
virtual machines more. (HAProxy's `busy-polling` is the same without an end.)
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

__all__ = ["Awake"]


class Awake:
    """All methods belong to one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells seconds. (A loop's own stands still while a callback runs, and an answer is one.)"""
        self._clock = clock
        self._until = 0.0
        self._polling = False

    def stay(self, seconds: float) -> None:
        """Poll for so long from now on, instead of sleeping; other processes that want the core get it all the same."""
        if seconds <= 0:
            return
        self._until = self._clock() + seconds
        if not self._polling:
            self._polling = True
            self._poll(asyncio.get_running_loop())

    def _poll(self, loop: asyncio.AbstractEventLoop) -> None:
        """What is called soon again lets the loop look for events, and not wait for one."""
        if self._clock() < self._until:
            os.sched_yield()
            loop.call_soon(self._poll, loop)
        else:
            self._polling = False
