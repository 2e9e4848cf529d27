"""Simultaneous bounds: against the normal quantile for one group, and the error rate they promise for many."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from retort.errors import InputError
from retort.metrics.simultaneous import GroupBound, simultaneous_bounds


def group(values: np.ndarray, prefix: str = "q") -> dict[str, float]:
    return {f"{prefix}{number}": float(value) for number, value in enumerate(values)}


def test_one_group_agrees_with_the_normal_quantile() -> None:
    d = np.random.default_rng(0).normal(0.1, 0.4, 1000)
    error = d.std(ddof=1) / math.sqrt(len(d))
    lower = simultaneous_bounds({"en": group(d)})["en"]
    assert lower.mean == pytest.approx(d.mean())
    assert lower.error == pytest.approx(error, rel=1e-6)
    assert (d.mean() - lower.low) / error == pytest.approx(scipy.stats.norm.ppf(0.95), abs=0.12)
    assert lower.high == math.inf
    both = simultaneous_bounds({"en": group(d)}, sides="both")["en"]
    assert (both.high - d.mean()) / error == pytest.approx(scipy.stats.norm.ppf(0.975), abs=0.12)
    assert both.high - both.mean == pytest.approx(both.mean - both.low)


def test_more_groups_and_more_looks_widen_the_bounds_as_bonferroni_does_at_most() -> None:
    rng = np.random.default_rng(1)
    groups = {f"lang{number}": group(rng.normal(0, 0.3, 400), f"{number}-") for number in range(20)}
    widths = {looks: _width(simultaneous_bounds(groups, looks=looks)["lang0"]) for looks in (1, 5)}
    assert widths[1] == pytest.approx(scipy.stats.norm.ppf(0.95 ** (1 / 20)), abs=0.2)  # independent groups
    assert widths[5] == pytest.approx(scipy.stats.norm.ppf(1 - 0.05 / 100), abs=0.4)
    assert widths[1] < widths[5]


def test_groups_of_the_same_queries_cost_no_more_than_one() -> None:
    d = np.random.default_rng(2).normal(0, 0.3, 300)
    alone = simultaneous_bounds({"a": group(d)})["a"]
    copies = simultaneous_bounds({name: group(d) for name in "abcdefgh"})["h"]
    assert copies.low == pytest.approx(alone.low, abs=1e-9)
    independent = simultaneous_bounds({name: group(d, name) for name in "abcdefgh"})["h"]
    assert independent.low < alone.low


def test_clusters_of_copies_count_as_one_query_each() -> None:
    d = np.random.default_rng(3).normal(0, 0.3, 200)
    alone = simultaneous_bounds({"a": group(d)})["a"]
    fourfold = {f"{query}#{copy}": value for query, value in group(d).items() for copy in range(4)}
    clustered = simultaneous_bounds({"a": fourfold}, clusters={query: query.split("#")[0] for query in fourfold})["a"]
    assert clustered.error == pytest.approx(alone.error)
    assert clustered.low == pytest.approx(alone.low, abs=0.1 * alone.error)
    assert simultaneous_bounds({"a": fourfold})["a"].error < 0.6 * alone.error  # what ignoring the copies would claim


def test_a_group_that_looks_unchanged_borrows_the_spread_of_the_others() -> None:
    changed = np.random.default_rng(4).choice([-1.0, 0.0, 1.0], 400, p=[0.05, 0.9, 0.05])
    bounds = simultaneous_bounds({"changed": group(changed, "c"), "still": group(np.zeros(100), "s")})
    assert bounds["still"].mean == 0.0
    assert bounds["still"].low < -0.02
    nothing = simultaneous_bounds({"a": group(np.zeros(10)), "b": group(np.zeros(5))}, sides="both")
    assert [(bound.low, bound.high) for bound in nothing.values()] == [(0.0, 0.0)] * 2


def test_all_bounds_hold_together_as_often_as_promised_even_when_harm_is_rare() -> None:
    """8 groups of 200 queries; one query in a hundred loses everything. A plain max-t bootstrap fails here in half the
    trials."""
    rng = np.random.default_rng(5)
    values, chances = [-1.0, -0.5, 0.1, 0.0], [0.01, 0.02, 0.07, 0.90]
    truth = float(np.dot(values, chances))
    trials = 80
    wrong = 0
    for trial in range(trials):
        groups = {str(number): group(rng.choice(values, 200, p=chances), f"{number}-") for number in range(8)}
        wrong += any(bound.low > truth for bound in simultaneous_bounds(groups, samples=400, seed=trial).values())
    assert wrong <= 10, wrong  # 5 % of 80 is 4; three standard deviations more


def test_the_same_seed_gives_the_same_bounds() -> None:
    groups = {"a": group(np.random.default_rng(6).random(50))}
    assert (
        simultaneous_bounds(groups, seed=1)
        == simultaneous_bounds(groups, seed=1)
        != simultaneous_bounds(groups, seed=2)
    )


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({}, "at least one group"),
        ({"fi": {"q": 1.0}}, "'fi' has 1 queries"),
        ({"fi": {"q": 1.0, "r": math.nan}}, "'fi'.*not a finite"),
    ],
)
def test_unusable_groups_are_refused(groups: dict[str, dict[str, float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        simultaneous_bounds(groups)


def _width(bound: GroupBound) -> float:
    return (bound.mean - bound.low) / bound.error
