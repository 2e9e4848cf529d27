"""What may be said after two looks: of each language and slice one state, and of all of them together one line.

    kept             the lower bound of the change lies above -margin
    fell             not kept, and the upper bound lies below 0 or the mean change below -margin
    unclear          neither
    unguarded        too few queries to say anything
    not_measurable   the base finds too little there: there is nothing that could fall

`judging.py` finds it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, Self

from retort.tuning.guard_data import ALL
from retort.tuning.wording import verdict_line

__all__ = ["JUDGED", "GroupState", "Judgement", "State"]

State = Literal["kept", "fell", "unclear", "unguarded", "not_measurable"]
JUDGED: Final = frozenset({"kept", "fell", "unclear"})


@dataclass(frozen=True)
class GroupState:
    """One language, or one language at one level. Changes are after - before of MRR@10; bounds are simultaneous."""

    language: str
    level: str
    state: State
    queries: int
    before: float
    after: float
    change: float
    low: float | None  # one-sided: surely not lower than this; None where nothing is judged
    high: float | None  # two-sided
    base_recall: float

    @property
    def name(self) -> str:
        """`ja`, or `ja/folder` for a slice."""
        return self.language if self.level == ALL else f"{self.language}/{self.level}"


@dataclass(frozen=True)
class Judgement:
    """What changed between two looks, and what may be said of it."""

    languages: dict[str, GroupState]
    slices: dict[str, GroupState]
    margin: float
    least_queries: int
    least_recall: float
    looks: int
    target_before: float | None = None
    target_change: float | None = None
    target_low: float | None = None  # 95 % for itself: the tuned task is measured, not guarded
    target_high: float | None = None
    mean_language_change: float | None = None  # over the judged languages other than the pivot
    rows: list[dict[str, Any]] = field(default_factory=list)  # language x level x measure, for the report

    @property
    def judged(self) -> list[GroupState]:
        """Languages and slices with enough queries and a base that finds something."""
        return [group for group in self._groups if group.state in JUDGED]

    @property
    def all_kept(self) -> bool:
        """Every guarded language and slice is kept, and there is at least one language: a weak guard is no success."""
        guarded = any(group.state in JUDGED for group in self.languages.values())
        return guarded and all(group.state == "kept" for group in self.judged)

    @property
    def damaged(self) -> list[str]:
        """Names of the languages and slices that fell."""
        return [group.name for group in self._groups if group.state == "fell"]

    @property
    def worst(self) -> GroupState | None:
        """The language or slice with the lowest lower bound."""
        return min(self.judged, key=lambda group: group.low if group.low is not None else 0.0, default=None)

    @property
    def worst_low(self) -> float | None:
        """The lowest lower bound of all that is judged."""
        return self.worst.low if self.worst is not None else None

    @property
    def summary(self) -> str:
        """One line for a log: what is kept, what fell, and what is not guarded."""
        return verdict_line(self._groups, self.margin, self.least_queries, self.least_recall)

    @property
    def _groups(self) -> list[GroupState]:
        return [*self.languages.values(), *self.slices.values()]

    def to_json(self, *, rows: bool = True) -> dict[str, Any]:
        """As JSON values, with what follows from them; `rows=False` leaves the long table out."""
        value = asdict(self)
        if not rows:
            value["rows"] = []
        return {
            **value,
            "all_kept": self.all_kept,
            "damaged": self.damaged,
            "worst": self.worst.name if self.worst is not None else None,
            "worst_low": self.worst_low,
            "summary": self.summary,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave."""
        own = {name: value[name] for name in cls.__dataclass_fields__}
        for name in ("languages", "slices"):
            own[name] = {key: GroupState(**group) for key, group in own[name].items()}
        return cls(**own)
