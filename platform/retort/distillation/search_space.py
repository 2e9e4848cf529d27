"""What the small search looks for and where: weights, temperatures and the rate, around the values of the config.

    values_of(settings, course)    the trials' values; the first trial has the config's own
    best_trial(rows)               of the trials that went all the way, and did not diverge, the one with the best figure

Pure functions; `sweep.py` runs the trials. Only ratios of the three weights matter to Adam, so the first loss that is on
keeps its weight and the others move. A loss that is off stays off, and its temperatures are not searched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.stats import qmc

from retort.distillation.course import PARTS, Course

__all__ = ["SearchSettings", "Searched", "best_trial", "searched", "trial_steps", "values_of"]

Searched = Literal[
    "learning_rate", "contrastive_weight", "sentence_weight", "word_weight",
    "temperature", "student_temperature", "teacher_temperature", "word_temperature",
]  # fmt: skip
NAMES: tuple[Searched, ...] = get_args(Searched)
SPREAD = {"weight": 5.0, "temperature": 3.0, "rate": 3.0}
"""Values between the config's divided by this and times this, evenly on the logarithmic scale."""


class SearchSettings(BaseModel):
    """The search for loss weights, temperatures and learning rate: short runs, the worse ones stopped early (ASHA)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: int = Field(
        0, ge=0, le=200, description="Settings tried, the given ones first; 0: no search, the given ones are used."
    )
    steps: int | None = Field(None, ge=2, description="Steps of a trial at most. Default: a quarter of the run's.")
    reduction: int = Field(
        3, ge=2, le=10, description="Of so many trials one goes on after each rung; rungs lie this factor apart."
    )
    rungs: int = Field(1, ge=1, le=4, description="Times at which the worse trials are stopped.")
    minutes: float | None = Field(
        None, gt=0, description="Minutes after which no more is tried, all trials together. Default: no limit."
    )
    fields: tuple[Searched, ...] = Field(
        NAMES, min_length=1, description="What is searched; weights and temperatures of losses that are off never are."
    )
    ranges: dict[Searched, tuple[float, float]] = Field(
        default_factory=dict,
        description="Lowest and highest value of a field, in place of the given value's surroundings.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> SearchSettings:
        wrong = [name for name, (low, high) in self.ranges.items() if not 0 < low < high]
        if wrong:
            raise ValueError(f"ranges of {', '.join(wrong)} must go from a positive number up to a larger one")
        strange = [name for name in self.ranges if name not in self.fields]
        if strange:
            raise ValueError(f"ranges are given for {', '.join(strange)}, which fields leaves out")
        return self


def searched(settings: SearchSettings, course: Course) -> dict[Searched, tuple[float, float]]:
    """(lowest, highest) of each field that the search moves."""
    on = [part for part in PARTS if getattr(course, f"{part}_weight") > 0]
    found: dict[Searched, tuple[float, float]] = {}
    for name in settings.fields:
        if name != f"{on[0]}_weight" and _matters(name, on):
            value, spread = getattr(course, name), SPREAD[name.rsplit("_", 1)[-1]]
            found[name] = settings.ranges.get(name, (value / spread, value * spread))
    return found


def values_of(settings: SearchSettings, course: Course) -> list[dict[str, float]]:
    """Values of each trial: the course's own first, then points that cover the space evenly (Latin hypercube)."""
    bounds = searched(settings, course)
    own: dict[str, float] = {name: float(getattr(course, name)) for name in bounds}
    if not bounds:
        return [own]
    points = qmc.LatinHypercube(d=len(bounds), rng=course.seed).random(max(1, settings.trials - 1))
    trials = [own]
    for point in points[: settings.trials - 1]:
        spread = zip(bounds.items(), point.tolist(), strict=True)
        trials.append({name: _rounded(low * (high / low) ** share) for (name, (low, high)), share in spread})
    return trials


def trial_steps(settings: SearchSettings, course: Course) -> tuple[int, int]:
    """(steps of a trial, steps to the first rung): rungs lie `reduction` apart, the last trials end at the first number."""
    steps = min(course.steps, settings.steps or max(2, math.ceil(course.steps / 4)))
    return steps, max(1, steps // settings.reduction**settings.rungs)


def best_trial(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The trial with the best figure among those that went farthest; of equal ones the first. None without any figure.

    One that diverged after its figure is taken only where all others have none, or diverged too.
    """
    told: Sequence[Mapping[str, Any]] = [row for row in rows if row["history"]]
    if not told:
        return None
    told = [row for row in told if not row["diverged"]] or told
    farthest = max(row["history"][-1]["step"] for row in told)
    there = [row for row in told if row["history"][-1]["step"] == farthest]
    return max(there, key=lambda row: (row["mrr10"], -row["trial"]))


def _matters(name: str, on: Sequence[str]) -> bool:
    owners = {"learning_rate": PARTS, "temperature": ("contrastive",), "student_temperature": ("sentence",), "teacher_temperature": ("sentence",)}  # fmt: skip
    return any(part in on for part in owners.get(name, (name.split("_", 1)[0],)))


def _rounded(value: float) -> float:
    """Four digits: what a person would write down."""
    return float(f"{value:.4g}")
