"""How a step tells what it is doing, without knowing who listens.

Steps take `progress: Progress = QUIET`; the CLI passes a rich implementation, tests and workers the silent one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable


class Task(Protocol):
    """One running piece of work with a count."""

    def update(self, advance: float = 1, *, note: str | None = None) -> None:
        """Say that `advance` more units are done; `note` replaces the text at the end of the line."""


class Progress(Protocol):
    """Receiver of progress."""

    def task(self, description: str, total: float | None = None) -> AbstractContextManager[Task]:
        """A piece of work of `total` units (None: unknown), shown while the context is open."""

    def say(self, message: str) -> None:
        """One line that stays on the screen."""


@runtime_checkable
class Asker(Protocol):
    """A Progress that somebody sits before."""

    def can_ask(self) -> bool:
        """Whether anybody is there."""

    def ask(self, question: str) -> bool:
        """Whether they agree."""


class _QuietTask:
    def update(self, advance: float = 1, *, note: str | None = None) -> None:
        pass


QUIET_TASK: Task = _QuietTask()


class _Quiet:
    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Task]:
        yield QUIET_TASK

    def say(self, message: str) -> None:
        pass


QUIET: Progress = _Quiet()
