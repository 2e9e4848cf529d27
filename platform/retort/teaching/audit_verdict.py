"""May this teacher teach: measured figures against thresholds, and the sentence that says why. Pure functions.

A figure that could not be measured (the gap of an imported teacher, whose training queries nobody knows) decides nothing and is
said to be missing; too few unseen queries fail, because nothing then is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Check", "Thresholds", "choose", "decide"]


class Thresholds(BaseModel):
    """What a teacher must reach. None leaves a check out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    least_queries: int = Field(30, ge=2, description="Unseen queries that the figures rest on, at least.")
    least_pair_accuracy: float | None = Field(
        0.7, ge=0, le=1, description="Share of unseen (relevant, other) candidates ordered rightly, at least."
    )
    largest_gap: float | None = Field(
        0.1, ge=0, le=1, description="By how much that share may be higher on queries the teacher was trained on."
    )
    largest_loss_to_search: float | None = Field(
        0.02,
        ge=0,
        le=1,
        description="By how much nDCG@10 may be lower than that of the search which found the candidates.",
    )
    largest_ece: float | None = Field(
        0.1, ge=0, le=1, description="Calibration error of the logits after the best shift and scale, at most."
    )
    largest_raw_ece: float | None = Field(
        None, ge=0, le=1, description="Calibration error of sigmoid(logit) as it is, at most. Default: not asked for."
    )
    largest_length_correlation: float | None = Field(
        0.4,
        ge=0,
        le=1,
        description="Rank correlation, either way, of score and length among a query's other candidates, at most.",
    )
    largest_slice_loss: float | None = Field(
        0.15,
        ge=0,
        le=1,
        description="By how much pair accuracy may be lower in a slice (length, language, section, position) than on the whole.",
    )


@dataclass(frozen=True)
class Check:
    """One figure against its threshold."""

    name: str
    title: str
    value: float | None
    limit: float
    at_least: bool  # else at most
    note: str = ""  # of what a missing value, or of which slice

    @property
    def passed(self) -> bool | None:
        """None where it was not measured."""
        if self.value is None:
            return None
        # Figures are shown with three decimals: what looks equal is equal.
        value = round(self.value, 3)
        return value >= self.limit if self.at_least else value <= self.limit

    def sentence(self) -> str:
        """What failed, with both numbers."""
        assert self.value is not None
        bound = "at least" if self.at_least else "at most"
        note = f" ({self.note})" if self.note else ""
        value, limit = (f"{x:.0f}" if self.name == "least_queries" else f"{x:.3f}" for x in (self.value, self.limit))
        return f"{self.title}{note} is {value}; {bound} {limit} is asked for."

    def as_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "name": self.name,
            "title": self.title,
            "value": self.value,
            "limit": self.limit,
            "at_least": self.at_least,
            "note": self.note,
            "passed": self.passed,
        }


def decide(entry: Mapping[str, Any], thresholds: Thresholds) -> dict[str, Any]:
    """Return {"passed", "why", "checks"} for one teacher of audit.json (see audit_findings.py for what is in it)."""
    checks = _checks(entry, thresholds)
    failed = [check for check in checks if check.passed is False]
    missing = [check for check in checks if check.passed is None]
    if failed:
        why = " ".join(check.sentence() for check in failed)
    else:
        why = f"All {len(checks) - len(missing)} checks that could be made are passed."
    if missing:
        why += f" Not measured: {'; '.join(f'{check.title.lower()} ({check.note})' for check in missing)}."
    return {"passed": not failed, "why": why, "checks": [check.as_json() for check in checks]}


def choose(teachers: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the name of the teacher that passed with the highest unseen pair accuracy (the first of equals), or None."""
    passed = [entry for entry in teachers if entry["verdict"]["passed"]]
    best = max(passed, key=lambda entry: entry["unseen"]["pair_accuracy"]["mean"], default=None)
    return best["name"] if best is not None else None


def _checks(entry: Mapping[str, Any], limits: Thresholds) -> list[Check]:
    """Return the checks that are asked for, in the order of the page."""
    unseen = entry["unseen"]
    queries = unseen["pair_accuracy"]["queries"] if unseen["pair_accuracy"] else 0
    found = [Check("least_queries", "Number of unseen queries", float(queries), float(limits.least_queries), True)]

    def at_most(name: str, title: str, value: float | None, missing: str = "", note: str = "") -> None:
        limit = getattr(limits, name)
        if limit is not None:
            found.append(Check(name, title, value, limit, False, missing if value is None else note))

    if limits.least_pair_accuracy is not None:
        value = unseen["pair_accuracy"]["mean"] if unseen["pair_accuracy"] else 0.0
        found.append(Check("least_pair_accuracy", "Unseen pair accuracy", value, limits.least_pair_accuracy, True))
    gap = entry["gap"]
    at_most("largest_gap", "Gap between seen and unseen", gap["mean"] if gap else None, entry["gap_missing"])
    search = entry["against_search"]
    loss = -search["mean"] if search else None
    at_most("largest_loss_to_search", "Loss of nDCG@10 to the search", loss, "no search ranked these candidates")
    calibration = entry["calibration"]
    fitted = calibration["fitted"]["ece"] if calibration["fitted"] else None
    at_most("largest_ece", "Calibration error after shift and scale", fitted, "too few labels of one kind")
    at_most("largest_raw_ece", "Calibration error", calibration["raw"]["ece"])
    length = entry["length_correlation"]
    value = abs(length["mean"]) if length else None
    at_most(
        "largest_length_correlation",
        "Correlation of score and length",
        value,
        "too few candidates, or all of one length",
    )
    worst = entry["worst_slice"]
    at_most(
        "largest_slice_loss", "Loss of pair accuracy in the worst slice", worst["loss"] if worst else None,
        "no slice is large enough", f"{worst['by']}: {worst['label']}" if worst else "",
    )  # fmt: skip
    return found
