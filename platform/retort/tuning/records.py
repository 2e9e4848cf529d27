"""What tuning says of itself while it runs: progress on the screen, JSON lines, and files for TensorBoard.

They lie outside the artefact (`<store>/logs/encoder/<key>`), because they hold times, and equal tuning gives equal files.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from retort.progress import Task

__all__ = ["Records"]

SHOWN = ("loss", "grad_norm", "learning_rate", "examples_per_s", "wait_s", "wait_share", "target", "worst_low")


class Records:
    """Called with each report of the loop; a context manager."""

    def __init__(self, folder: Path, task: Task) -> None:
        """Append to the files in `folder`, so that a run that is taken up goes on in them."""
        from tensorboardX import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._lines = (folder / "tuning.jsonl").open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder), flush_secs=30)
        self._task = task
        self._step = 0
        self._guard = ""

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
        for name in SHOWN:
            if isinstance(report.get(name), int | float):
                self._board.add_scalar(f"tune/{name}", report[name], step)
        if "target" in report:
            self._guard = self._told(report)
        if "loss" not in report:
            return
        # A run that was taken up starts behind the steps done before; one that lost a worker repeats a few.
        self._task.update(
            max(0, step - self._step),
            note=f"loss {report['loss']:.4f}, {report['examples_per_s']:.0f} examples/s{self._guard}",
        )
        self._step = max(self._step, step)

    @staticmethod
    def _told(report: Mapping[str, Any]) -> str:
        target = f", dev MRR@10 {report['target']:.4f}" if report["target"] is not None else ""
        kept = report.get("all_kept")
        return target + ("" if kept is None else ", all kept" if kept else ", not all kept")
