"""What tuning says of itself while it runs; `runtime/records.py` writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retort.progress import Task
from retort.runtime.records import RunRecords

__all__ = ["Records"]


class Records(RunRecords):
    """Loss, gradient norm, speed, and what the guard said at its last look."""

    FILE = "tuning.jsonl"
    BOARD = "tune"
    SHOWN = ("loss", "grad_norm", "learning_rate", "examples_per_s", "wait_s", "wait_share", "target", "worst_low")

    def __init__(self, folder: Path, task: Task) -> None:
        super().__init__(folder, task)
        self._guard = ""

    def take(self, report: Mapping[str, Any]) -> None:
        """Keep the guard's last word."""
        if "target" in report:
            target = f", dev MRR@10 {report['target']:.4f}" if report["target"] is not None else ""
            kept = report.get("all_kept")
            self._guard = target + ("" if kept is None else ", all kept" if kept else ", not all kept")

    def note(self, report: Mapping[str, Any]) -> str:
        """Loss, speed, guard."""
        return super().note(report) + self._guard
