"""What distilling says of itself while it runs; `runtime/records.py` writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retort.distillation.course import PARTS
from retort.progress import Task
from retort.runtime.records import RunRecords

__all__ = ["Records"]


class Records(RunRecords):
    """Loss parts, gradient norm, speed, and the figure on the dev pool beside its first one."""

    FILE = "training.jsonl"
    BOARD = "distil"
    SHOWN = ("loss", "contrastive", "sentence", "word", "grad_norm", "learning_rate", "examples_per_s", "tokens_per_s", "wait_s", "wait_share", "mrr10")  # fmt: skip

    def __init__(self, folder: Path, task: Task) -> None:
        super().__init__(folder, task)
        self._mrr10: float | None = None
        self._first: float | None = None

    def take(self, report: Mapping[str, Any]) -> None:
        """Keep the newest figure on the dev pool, and the first."""
        if report.get("mrr10") is not None:
            self._mrr10 = report["mrr10"]
            self._first = self._mrr10 if self._first is None else self._first

    def note(self, report: Mapping[str, Any]) -> str:
        """Loss, gradient, speed, the share of the time that was waited for data, dev pool."""
        dev = f", dev MRR@10 {self._mrr10:.3f} (at first {self._first:.3f})" if self._mrr10 is not None else ""
        parts = " + ".join(f"{report[name]:.3f}" for name in PARTS)
        speed = f"{report['examples_per_s']:.1f} examples/s, waited {report['wait_share']:.0%}"
        return f"loss {report['loss']:.3f} (parts {parts}), gradient {report['grad_norm']:.2f}, {speed}{dev}"
