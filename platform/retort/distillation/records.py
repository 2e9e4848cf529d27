"""What training says of itself while it runs: progress on the screen, JSON lines, and files for TensorBoard.

They lie outside the artefact (`<store>/logs/encoder/<key>`), because they hold times, and equal training should give
equal files. Neighbour: `card.py` writes what belongs to the encoder.
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

SHOWN = (
    "loss",
    "contrastive",
    "sentence",
    "word",
    "grad_norm",
    "learning_rate",
    "examples_per_s",
    "tokens_per_s",
    "wait_s",
    "mrr10",
)


class Records:
    """Called with each report of the loop; a context manager."""

    def __init__(self, folder: Path, task: Task) -> None:
        """Append to the files in `folder`, so that a run that is taken up goes on in them."""
        from tensorboardX import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._lines = (folder / "training.jsonl").open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder), flush_secs=30)
        self._task = task
        self._step = 0
        self._mrr10: float | None = None
        self._first: float | None = None

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
        self._lines.write(json.dumps({"time": round(time.time(), 3), **report}) + "\n")
        self._lines.flush()
        for name in SHOWN:
            if isinstance(report.get(name), int | float):
                self._board.add_scalar(f"distil/{name}", report[name], step)
        if report.get("mrr10") is not None:
            self._mrr10 = report["mrr10"]
            self._first = self._mrr10 if self._first is None else self._first
        if "loss" not in report:
            return
        dev = f", dev MRR@10 {self._mrr10:.3f} (at first {self._first:.3f})" if self._mrr10 is not None else ""
        # A run that was taken up starts behind the steps done before; one that lost a worker repeats a few.
        self._task.update(
            max(0, step - self._step), note=f"loss {report['loss']:.3f}, {report['examples_per_s']:.0f} examples/s{dev}"
        )
        self._step = max(self._step, step)
