"""A receiver of progress that remembers, and calls back: how tests kill something when so much is done."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Watch:
    """Counts what each task did, keeps notes and sentences, and calls `on_update` at each update."""

    def __init__(self, on_update: Callable[[], None] = lambda: None) -> None:
        self.on_update = on_update
        self.by_task: Counter[str] = Counter()
        self.notes: list[str] = []
        self.said: list[str] = []
        self.lock = threading.RLock()  # like a terminal, it cannot be pickled
        self._task = ""

    @property
    def done(self) -> float:
        """Units of all tasks."""
        return sum(self.by_task.values())

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Watch]:
        self._task = description
        yield self

    def update(self, advance: float = 1, *, note: str | None = None) -> None:
        self.by_task[self._task] += advance
        self.notes.append(note or "")
        self.on_update()

    def say(self, message: str) -> None:
        self.said.append(message)
