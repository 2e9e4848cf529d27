"""A process of its own that is asked one question at a time: a line of JSON in, a line of JSON out; idle in between."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self


class AskedProcess:
    """The parent's side; its end closes the child's input, on which the child ends."""

    def __init__(self, command: Sequence[str]) -> None:
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._child.stdin is not None
        with suppress(BrokenPipeError):
            self._child.stdin.close()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:  # it has nothing left to say: what it measured is here
            self._child.kill()
            self._child.wait()

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a question; SystemExit if the child ended."""
        assert self._child.stdin is not None and self._child.stdout is not None
        with suppress(BrokenPipeError):  # the end of its output tells
            self._child.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
            self._child.stdin.flush()
        for line in self._child.stdout:  # a library may print a line of its own
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise SystemExit(f"{self._child.args} ended with {self._child.wait()}")
