"""Two looks compared: which languages and slices are surely kept, which fell, and of which nothing can be said.

A group is a language (all its sets, same- and cross-language, whole collections) or a slice (a language at one level).
Bounds on the change of MRR@10 hold for all groups and all planned looks at once (`metrics/simultaneous.py`); a query in several
languages, kinds and levels counts as one.

Neighbours: `judgement.py` is what comes out, `looks.py` what goes in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from retort.errors import InputError
from retort.metrics.significance import paired_bootstrap
from retort.metrics.simultaneous import GroupBound, simultaneous_bounds
from retort.tuning.collection import language_tag, same_language
from retort.tuning.guard_data import ALL, GuardData
from retort.tuning.judgement import JUDGED, GroupState, Judgement, State
from retort.tuning.looks import MEASURES, Line, Look

__all__ = ["judge"]

_RESAMPLES: Final = 4000  # simultaneous_bounds takes more where the tail asks for it
_NORMAL_95: Final = 1.959964

Floats = NDArray[np.float64]


@dataclass
class _Group:
    """Values of one language at one level, gathered from its lines."""

    language: str
    level: str
    keys: list[str] = field(default_factory=list)
    clusters: list[str] = field(default_factory=list)
    before: list[Floats] = field(default_factory=list)
    after: list[Floats] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.language if self.level == ALL else f"{self.language}/{self.level}"


def judge(data: GuardData, lines: Sequence[Line], before: Look, after: Look, looks: int) -> Judgement:
    """Compare two looks of one guard.

    Args:
        data: the guard's.
        lines: of its looks.
        before: the base's look.
        after: the tuned encoder's.
        looks: how many judgements are planned in all, over everything that is chosen from.

    Raises:
        InputError: a look of another guard.
    """
    for look in (before, after):
        if look.guard != data.digest:
            raise InputError("This look was taken with another guard: take both looks with the one that judges them.")
    settings = data.settings
    groups = _groups(data, lines, before, after)
    states: dict[str, State] = {group.name: _standing(group, data) for group in groups}
    guarded = [group for group in groups if states[group.name] == "kept"]
    lower, both = _bounds(guarded, settings.level, looks)
    found = {}
    for group in groups:
        old, new = np.concatenate(group.before), np.concatenate(group.after)  # [queries, measures]
        change = float(new[:, 0].mean() - old[:, 0].mean())
        low = lower[group.name].low if group.name in lower else None
        high = both[group.name].high if group.name in both else None
        found[group.name] = GroupState(
            language=group.language,
            level=group.level,
            state=_verdict(states[group.name], change, low, high, settings.margin),
            queries=len(group.keys),
            before=float(old[:, 0].mean()),
            after=float(new[:, 0].mean()),
            change=change,
            low=low,
            high=high,
            base_recall=float(old[:, MEASURES.index("recall@10")].mean()),
        )
    languages = {name: group for name, group in found.items() if group.level == ALL}
    pivot = language_tag(settings.pivot)
    others = [
        group.change
        for group in languages.values()
        if group.state in JUDGED and not same_language(group.language, pivot)
    ]
    return Judgement(
        languages=languages,
        slices={name: group for name, group in found.items() if group.level != ALL},
        margin=settings.margin,
        least_queries=settings.least_queries,
        least_recall=settings.least_recall,
        looks=looks,
        **_target(before, after),
        mean_language_change=sum(others) / len(others) if others else None,
        rows=[row for group in groups for row in _rows(group, found[group.name])],
    )


def _groups(data: GuardData, lines: Sequence[Line], before: Look, after: Look) -> list[_Group]:
    """Languages first, then slices, each by name and level."""
    found: dict[tuple[int, str], _Group] = {}
    order = {level: place for place, level in enumerate((ALL, *data.levels))}
    for number, (line, old, new) in enumerate(zip(lines, before.lines, after.lines, strict=True)):
        if line.cell.kind == "target":
            continue
        key = (order[line.level], line.cell.language)
        group = found.setdefault(key, _Group(line.cell.language, line.level))
        queries = data.entries[line.entries, 1].tolist()
        group.keys += [f"{number}:{query}" for query in queries]
        group.clusters += [data.clusters[query] for query in queries]
        group.before.append(old.values)
        group.after.append(new.values)
    languages = sorted((key for key in found if key[0] == 0), key=lambda key: key[1])
    slices = sorted((key for key in found if key[0] > 0), key=lambda key: (key[1], key[0]))
    return [found[key] for key in [*languages, *slices]]


def _standing(group: _Group, data: GuardData) -> State:
    """Whether a group can be judged; "kept" stands for "yes" until its bounds are known."""
    if len(group.keys) < data.settings.least_queries or len(set(group.clusters)) < 2:
        return "unguarded"
    recall = float(np.concatenate(group.before)[:, MEASURES.index("recall@10")].mean())
    return "not_measurable" if recall < data.settings.least_recall else "kept"


def _bounds(groups: Sequence[_Group], level: float, looks: int) -> tuple[dict[str, GroupBound], dict[str, GroupBound]]:
    """Lower bounds, and two-sided ones, of all groups together."""
    if not groups:
        return {}, {}
    differences = {
        group.name: dict(
            zip(group.keys, (np.concatenate(group.after) - np.concatenate(group.before))[:, 0].tolist(), strict=True)
        )
        for group in groups
    }
    clusters = {key: cluster for group in groups for key, cluster in zip(group.keys, group.clusters, strict=True)}
    options: dict[str, Any] = {"level": level, "looks": looks, "clusters": clusters, "samples": _RESAMPLES}
    return (
        simultaneous_bounds(differences, sides="lower", **options),
        simultaneous_bounds(differences, sides="both", **options),
    )


def _verdict(standing: State, change: float, low: float | None, high: float | None, margin: float) -> State:
    if low is None or high is None:
        return standing
    if low > -margin:
        return "kept"
    return "fell" if high < 0 or change < -margin else "unclear"


def _target(before: Look, after: Look) -> dict[str, float | None]:
    old, new = before.target_values, after.target_values
    if old is None or new is None:
        return {}
    base = float(old.mean())
    if len(old) < 2:
        return {"target_before": base, "target_change": float(new.mean()) - base}
    found = paired_bootstrap(new, old)
    return {
        "target_before": base,
        "target_change": found.mean,
        "target_low": found.low,
        "target_high": found.high,
    }


def _rows(group: _Group, state: GroupState) -> list[dict[str, Any]]:
    """One row per measure. MRR@10 has the guard's bounds where it is judged; other intervals are 95 %, each for itself."""
    old, new = np.concatenate(group.before), np.concatenate(group.after)  # [queries, measures]
    errors = _clustered_errors(new - old, group.clusters)
    found = []
    for column, name in enumerate(MEASURES):
        change = float((new - old)[:, column].mean())
        low: float | None = None
        high: float | None = None
        if errors is not None:
            low, high = change - _NORMAL_95 * errors[column], change + _NORMAL_95 * errors[column]
        if column == 0 and state.low is not None and state.high is not None:
            low, high = state.low, state.high
        found.append(
            {
                "language": group.language,
                "level": group.level,
                "measure": name,
                "queries": len(group.keys),
                "before": float(old[:, column].mean()),
                "after": float(new[:, column].mean()),
                "change": change,
                "low": low,
                "high": high,
                "state": state.state if column == 0 else None,
            }
        )
    return found


def _clustered_errors(differences: Floats, clusters: Sequence[str]) -> list[float] | None:
    """Standard error of the mean of each column of [queries, measures], whole clusters being independent; None for one alone."""
    _, numbers = np.unique(np.array(clusters, dtype=object).astype(str), return_inverse=True)
    residuals = differences - differences.mean(axis=0)
    count = int(numbers.max()) + 1
    if count < 2:
        return None
    sums = np.stack([np.bincount(numbers, weights=column) for column in residuals.T], axis=1)  # [clusters, measures]
    variance = (sums**2).sum(axis=0) / len(differences) ** 2 * count / (count - 1)
    return [float(value) for value in np.sqrt(variance)]
