"""The ladder climbs to damage, goes down from it, halves the gap, and does not care how many trials run at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from retort.tuning.config import SweepSettings
from retort.tuning.ladder import DONE, best_row, next_rate, tried

Verdict = Callable[[float], dict[str, Any]]


def limits(safe_below: float, damage_from: float) -> Verdict:
    def row(rate: float) -> dict[str, Any]:
        safe = rate < safe_below
        return {
            "rate": rate,
            "safe": safe,
            "damaging": rate >= damage_from,
            "best_target": 0.5 + rate,
            "best_step": 8 * safe,
        }

    return row


def climb(
    settings: SweepSettings, verdict: Verdict, at_once: int = 1
) -> tuple[list[float], dict[float, dict[str, Any]]]:
    """Run the ladder with so many trials at once, the oldest ending first; the rates that count, and all rows."""
    known: dict[float, dict[str, Any]] = {}
    pending: list[float] = []
    for _ in range(1000):
        while len(pending) < at_once:
            rate = next_rate(settings, known, pending)
            if rate is None or rate == DONE:
                break
            assert rate not in known and rate not in pending
            pending.append(rate)
        if not pending:
            return tried(settings, known), known
        done = pending.pop(0)
        known[done] = verdict(done)
    raise AssertionError("the ladder never ends")


def test_it_climbs_until_a_language_is_damaged_then_halves_the_gap() -> None:
    rates, rows = climb(SweepSettings(start=1e-7, factor=4, trials=10, refine=2), limits(5e-6, 3e-5))
    assert rates == [1e-7, 4e-7, 1.6e-6, 6.4e-6, 2.56e-5, 1.024e-4, pytest.approx(3.2e-6), pytest.approx(4.52548e-6)]
    best = best_row(SweepSettings(), rows)
    assert best is not None and best["rate"] == pytest.approx(4.52548e-6)


def test_it_goes_down_from_an_unsafe_start_and_still_looks_for_damage() -> None:
    rates, _ = climb(SweepSettings(start=1e-4, factor=10, trials=10, refine=1), limits(2e-6, 5e-3))
    assert rates == [1e-4, 1e-5, 1e-6, 1e-3, 1e-2, pytest.approx(3.16228e-6)]


def test_trials_are_bounded_and_nothing_safe_is_said() -> None:
    settings = SweepSettings(start=1e-4, factor=10, trials=4, refine=1)
    rates, rows = climb(settings, limits(0, 1))
    assert rates == [1e-4, 1e-5, 1e-6] and best_row(settings, rows) is None
    rates, _ = climb(settings, limits(1, 1))
    assert rates == [1e-4, 1e-3, 1e-2]


@pytest.mark.parametrize(("safe", "damage"), itertools.product((1e-8, 3e-7, 2e-6, 5e-5, 1.0), (1e-6, 4e-5, 1e-3, 1.0)))
def test_any_number_of_trials_at_once_ends_in_the_same_rates(safe: float, damage: float) -> None:
    settings = SweepSettings(start=2e-7, factor=5, trials=9, refine=2)
    alone, rows = climb(settings, limits(safe, damage))
    for at_once in (2, 3, 5):
        together, all_rows = climb(settings, limits(safe, damage), at_once)
        assert together == alone and set(alone) <= set(all_rows)
        assert best_row(settings, all_rows) == best_row(settings, rows)


def test_a_killed_sweep_does_no_finished_trial_again() -> None:
    settings = SweepSettings()
    rates, rows = climb(settings, limits(5e-6, 3e-5))
    half = {rate: rows[rate] for rate in rates[:3]}
    assert next_rate(settings, half) == rates[3]


def test_the_best_good_point_wins_and_of_equals_the_lowest_rate() -> None:
    settings = SweepSettings(start=1e-7, factor=10, trials=5, refine=0)
    points = {1e-7: (0.5, 8), 1e-6: (0.6, 8), 1e-5: (0.6, 4), 1e-4: (0.9, 0), 1e-3: (0.95, 0)}
    rows = {
        rate: {"rate": rate, "safe": step == 8, "damaging": rate == 1e-3, "best_target": target, "best_step": step}
        for rate, (target, step) in points.items()
    }
    best = best_row(settings, rows)
    assert best is not None and best["rate"] == 1e-6
    rows[1e-5]["best_target"] = 0.7  # ended by a later look: it counts up to its last good point
    best = best_row(settings, rows)
    assert best is not None and (best["rate"], best["best_step"]) == (1e-5, 4)
