"""How the guard speaks: points with a sign, lists that end, and the one line that says what is kept and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["VerdictGroup", "points", "rate_text", "some", "verdict_line"]

_NAMED = 6


class VerdictGroup(Protocol):
    """What is said of a language or slice: `judging.GroupState`."""

    @property
    def name(self) -> str:
        """`ja`, `ja/folder`."""

    @property
    def level(self) -> str:
        """`all`, or a corpus field."""

    @property
    def state(self) -> str:
        """kept, fell, unclear, unguarded or not_measurable."""

    @property
    def queries(self) -> int:
        """Pooled queries."""

    @property
    def change(self) -> float:
        """Of MRR@10."""

    @property
    def low(self) -> float | None:
        """Lower bound of the change."""

    @property
    def base_recall(self) -> float:
        """Recall@10 of the base."""


def points(change: float) -> str:
    """0.0123 -> `+1.2`: hundredths of a measure, with a true minus and no sign on zero."""
    text = f"{abs(change) * 100:.1f}"
    return text if float(text) == 0 else f"{'+' if change > 0 else '−'}{text}"


def some(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def verdict_line(groups: Sequence[VerdictGroup], margin: float, least_queries: int, least_recall: float) -> str:
    """What is kept, what fell, what is unclear; then what is not guarded, by name. Never calls a weak guard a success."""
    by_state: dict[str, list[VerdictGroup]] = {}
    for group in groups:
        by_state.setdefault(group.state, []).append(group)
    kept, fell, unclear = (by_state.get(state, []) for state in ("kept", "fell", "unclear"))
    judged = [*kept, *fell, *unclear]
    allowed = f"{margin * 100:g} points of MRR@10"
    if not any(group.level == "all" for group in judged):
        sentences = ["Nothing is guarded: of no language can it be said whether it is kept."]
        if fell:
            sentences.append(f"Fell: {some([_with_change(group) for group in fell])}.")
    elif fell:
        sentences = [f"Fell: {some([_with_change(group) for group in fell])}."]
    elif unclear:
        sentences = [f"Not surely kept within {allowed}: {some([_with_low(group) for group in unclear])}."]
    else:
        worst = min(judged, key=lambda group: group.low if group.low is not None else 0.0)
        sentences = [f"Kept: {_counted(judged)} (worst {_with_low(worst)}, {allowed} are allowed)."]
    if fell and unclear:
        sentences.append(f"Unclear: {some([group.name for group in unclear])}.")
    if kept and (fell or unclear):
        sentences.append(f"Kept: {_counted(kept)}.")
    unguarded = [f"{group.name} ({group.queries})" for group in by_state.get("unguarded", [])]
    if unguarded:
        sentences.append(f"Unguarded for want of {least_queries} queries: {some(unguarded)}.")
    blind = [f"{group.name} ({group.base_recall:.2f})" for group in by_state.get("not_measurable", [])]
    if blind:
        sentences.append(f"Not measurable, the base's Recall@10 being below {least_recall:g}: {some(blind)}.")
    return " ".join(sentences)


def _counted(groups: Sequence[VerdictGroup]) -> str:
    languages = sum(group.level == "all" for group in groups)
    slices = len(groups) - languages
    text = f"{languages} language{'' if languages == 1 else 's'}"
    return text + (f" and {slices} slice{'' if slices == 1 else 's'}" if slices else "")


def _with_change(group: VerdictGroup) -> str:
    return f"{group.name} ({points(group.change)} points)"


def _with_low(group: VerdictGroup) -> str:
    return f"{group.name}: at worst {points(group.low or 0.0)} points"


def rate_text(rate: float) -> str:
    """1.6e-06 -> `1.6e-6`."""
    mantissa, exponent, power = f"{rate:.3g}".partition("e")
    return f"{mantissa}e{int(power)}" if exponent else mantissa
