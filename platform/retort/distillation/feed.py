"""The next steps' inputs, made by a thread while the model computes; what the model waits for them is measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Full, Queue
from typing import Generic, TypeVar

__all__ = ["Feed"]

T = TypeVar("T")


class Feed(Generic[T]):
    """`make(step)` for step = first, first + 1, ..., up to `ahead` of them before they are asked for.

    `close` ends the thread. `wait_s` is the time that `next` has waited so far, in seconds.
    """

    def __init__(self, make: Callable[[int], T], first: int, stop: int, ahead: int = 2) -> None:
        """Begin at once; `make` must be a pure function of the step."""
        self.wait_s = 0.0
        self._make, self._first, self._stop = make, first, stop
        self._queue: Queue[T | BaseException] = Queue(maxsize=ahead)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="retort-feed")
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()

    def next(self) -> T:
        """The next step's input; raises what `make` raised."""
        began = time.perf_counter()
        item = self._queue.get()
        self.wait_s += time.perf_counter() - began
        if isinstance(item, BaseException):
            raise item
        return item

    def _run(self) -> None:
        for step in range(self._first, self._stop):
            try:
                item: T | BaseException = self._make(step)
            except BaseException as error:  # handed to the thread that asks
                item = error
            while not self._ended.is_set():
                try:
                    self._queue.put(item, timeout=0.1)
                    break
                except Full:
                    continue
            if self._ended.is_set() or isinstance(item, BaseException):
                return
