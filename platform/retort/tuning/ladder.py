"""Which rate the sweep tries next: up until a language is damaged, then halving the gap above the highest safe rate.

A pure function of what is known, so that a sweep that was killed goes on, and any number of trials at a time ends in the
same rates: what was tried beyond the first damaging rate, for want of knowing better, is not counted.

A trial's row (a dict, written by `sweep.py`) is *safe* when every look kept every guarded language, *damaging* when one
fell. What is neither (a look at which the guard was not sure) counts as unsafe, and the climb goes on.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Literal

from retort.tuning.config import SweepSettings

__all__ = ["DONE", "best_row", "next_rate", "tried"]

Rows = Mapping[float, Mapping[str, Any]]
"""Rate -> its trial's row."""
Phase = Literal["climb", "descend", "refine", "done"]
DONE: float = -1.0
"""Given by `next_rate` where nothing is left to try."""

_SAFE = {"safe": True, "damaging": False}


def tried(settings: SweepSettings, known: Rows) -> list[float]:
    """The rates that count, in the order in which they are tried one by one."""
    return _replay(settings, known)[0]


def next_rate(settings: SweepSettings, known: Rows, pending: Collection[float] = ()) -> float | None:
    """The next rate to try; DONE where there is none, None where the trials under way must end first."""
    _, rate, phase = _replay(settings, known)
    if phase == "done":
        return DONE
    if rate not in pending:
        return rate
    # While climbing, the trials under way are taken for safe ones; a refinement needs to know.
    _, rate, phase = _replay(settings, {**known, **{one: _SAFE for one in pending if one not in known}})
    return rate if phase == "climb" and rate not in pending else None


def best_row(settings: SweepSettings, known: Rows) -> Mapping[str, Any] | None:
    """The trial with the best good point, of equal ones that of the lowest rate; None where no trial has one.

    A trial that a later look ended counts up to its last good point: what keeps every language is rate *and* number of
    steps, and the guard's error is shared over all looks of all trials, so the best of them may be taken.
    """
    rows = [known[rate] for rate in sorted(tried(settings, known)) if known[rate]["best_step"]]
    return max(rows, key=lambda row: (row["best_target"], -row["rate"]), default=None)


def _replay(settings: SweepSettings, known: Rows) -> tuple[list[float], float | None, Phase]:
    """What one trial at a time would have tried so far, and what comes next."""
    done: list[float] = []
    refined = 0
    rate, phase = _rounded(settings.start), "climb"
    while rate in known:
        done.append(rate)
        refined += phase == "refine"
        unsafe = min((one for one in done if not known[one]["safe"]), default=math.inf)
        safe = max((one for one in done if known[one]["safe"] and one < unsafe), default=None)
        room = len(done) - refined < settings.trials - settings.refine
        if safe is None and room:
            rate, phase = _rounded(min(done) / settings.factor), "descend"
        elif not any(known[one]["damaging"] for one in done) and room:
            rate, phase = _rounded(max(done) * settings.factor), "climb"
        elif safe is not None and unsafe < math.inf and refined < settings.refine:
            rate, phase = _rounded(math.sqrt(safe * unsafe)), "refine"
        else:
            return done, None, "done"
        if rate in done or rate >= 1.0:
            return done, None, "done"
    return done, rate, phase  # type: ignore[return-value]


def _rounded(rate: float) -> float:
    """Six digits: the same number however it was reached, and in files' names."""
    return float(f"{rate:.6g}")
