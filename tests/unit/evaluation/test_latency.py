"""Latency with a clock that the test turns."""

from __future__ import annotations

import pytest

from retort.evaluation.latency import WARM_UP_QUERIES, Latency, measure_latency


class Clock:
    """Time passes only in `search`, as many milliseconds as the text says."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.searched: list[str] = []

    def __call__(self) -> float:
        return self.now_s

    def search(self, text: str) -> None:
        self.searched.append(text)
        self.now_s += float(text) / 1000


def measure(texts: list[str], budget_s: float = 1e9, least: int = 1) -> tuple[Latency, Clock]:
    clock = Clock()
    return measure_latency(
        clock.search,
        texts,
        threads=2,
        budget_s=budget_s,
        least_queries=least,
        clock=clock,
        cpu_clock=lambda: clock.now_s / 4,
    ), clock


def test_median_and_ninetieth_percentile_of_single_queries() -> None:
    found, _ = measure([str(ms) for ms in range(1, 12)])
    assert found.median_ms == pytest.approx(6.0)
    assert found.p90_ms == pytest.approx(10.0)
    assert found.cpu_ms == pytest.approx(1.5)
    assert (found.queries, found.threads) == (11, 2)


def test_warm_up_is_not_counted() -> None:
    found, clock = measure(["10", "20", "30", "40", "1000"])
    assert clock.searched[:WARM_UP_QUERIES] == ["30", "40", "1000"]
    assert len(clock.searched) == WARM_UP_QUERIES + 5
    assert found.median_ms == pytest.approx(30.0)


def test_warm_up_of_slow_queries_is_short() -> None:
    _, clock = measure(["1500"] * 4, budget_s=0.001)
    assert len(clock.searched) == 1 + 1


def test_the_budget_ends_it_but_not_before_the_least_number() -> None:
    assert measure(["100"] * 50, budget_s=0.95)[0].queries == 10
    assert measure(["100"] * 50, budget_s=0.95, least=30)[0].queries == 30
    assert measure(["100"] * 4, budget_s=0.01, least=30)[0].queries == 4


def test_no_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one query"):
        measure([])
