"""What training says of itself while it runs: progress on the screen, JSON lines, and files for TensorBoard.

They lie outside the artefact (`<store>/logs/<kind>/<key>`), because they hold times, and equal training should give
equal files. A room says what it shows by a subclass: `distillation/records.py`, `tuning/records.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from retort.progress import Task

__all__ = ["RunRecords"]


class RunRecords:
    """Called with each report of the loop; a context manager."""

    FILE: ClassVar[str]
    """Name of the file with JSON lines."""
    BOARD: ClassVar[str]
    """What TensorBoard files the numbers under."""
    SHOWN: ClassVar[tuple[str, ...]]
    """Numbers of a report that TensorBoard gets."""

    def __init__(self, folder: Path, task: Task) -> None:
        """Append to the files in `folder`, so that a run that is taken up goes on in them."""
        from tensorboardX import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._lines = (folder / self.FILE).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder), flush_secs=30)
        self._task = task
        self._step = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._board.close()

    def __call__(self, report: Mapping[str, Any]) -> None:
        """Write one report down and show it."""
        step = int(report["step"])
        self._lines.write(json.dumps({"time": round(time.time(), 3), **report}, ensure_ascii=False) + "\n")
        self._lines.flush()
        for name in self.SHOWN:
            if isinstance(report.get(name), int | float):
                self._board.add_scalar(f"{self.BOARD}/{name}", report[name], step)
        self.take(report)
        if "loss" not in report:
            return
        # A run that was taken up starts behind the steps done before; one that lost a worker repeats a few.
        self._task.update(max(0, step - self._step), note=self.note(report))
        self._step = max(self._step, step)

    def take(self, report: Mapping[str, Any]) -> None:
        """Remember what later notes tell."""

    def note(self, report: Mapping[str, Any]) -> str:
        """The end of the progress line after a step."""
        return f"loss {report['loss']:.4f}, {report['examples_per_s']:.0f} examples/s"
