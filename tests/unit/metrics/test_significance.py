"""Paired tests: exact small cases, agreement with scipy, and the error rate they promise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from retort.errors import InputError
from retort.metrics.significance import (
    bootstrap_interval,
    paired_bootstrap,
    paired_differences,
    randomisation_test,
    seed_mean,
)


def scores(values: list[float]) -> dict[str, float]:
    return {f"q{number}": value for number, value in enumerate(values)}


def test_bootstrap_of_many_queries_agrees_with_the_normal_approximation() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.52, 0.3, 2000), rng.normal(0.5, 0.3, 2000)
    found = paired_bootstrap(a, b)
    d = a - b
    error = d.std(ddof=1) / math.sqrt(len(d))
    assert found.mean == pytest.approx(d.mean())
    assert found.low == pytest.approx(d.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(d.mean() + 1.96 * error, abs=0.1 * error)
    assert found.p == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue, abs=0.01)
    assert randomisation_test(a, b) == pytest.approx(found.p, abs=0.01)
    assert found.queries == 2000
    wide = paired_bootstrap(a, b, level=0.99)
    assert wide.low < found.low < found.high < wide.high


def test_bootstrap_agrees_with_scipy_on_skewed_small_data() -> None:
    d = np.array([0.0] * 30 + [0.5] * 5 + [1.0] * 3 + [-0.5] * 2)
    expected = scipy.stats.bootstrap(
        (d,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    found = bootstrap_interval(d, samples=20_000)
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=0.02), pytest.approx(expected.high, abs=0.02))


def test_the_same_seed_gives_the_same_numbers_and_another_does_not() -> None:
    rng = np.random.default_rng(2)
    a, b = scores(list(rng.random(50))), scores(list(rng.random(50)))
    assert paired_bootstrap(a, b, seed=1) == paired_bootstrap(a, b, seed=1) != paired_bootstrap(a, b, seed=2)
    assert randomisation_test(a, b, seed=1) == randomisation_test(a, b, seed=1) != randomisation_test(a, b, seed=2)


def test_queries_are_paired_by_id_not_by_place() -> None:
    a = {"x": 1.0, "y": 0.0, "z": 0.5}
    b = {"z": 0.5, "y": 0.0, "x": 1.0}
    assert list(paired_differences(a, b)) == [0.0, 0.0, 0.0]
    assert paired_bootstrap(a, b).p == 1.0
    assert randomisation_test(a, b) == 1.0


@pytest.mark.parametrize("values", [[0.25, 0.5, -0.25], [1.0, 1.0, 1.0, 1.0], [0.1, 0.2, 0.3, -0.1, 0.0]])
def test_randomisation_of_few_queries_is_exact(values: list[float]) -> None:
    """Every pattern of signs, enumerated here again with itertools."""
    seen = abs(sum(values))
    patterns = list(itertools.product([1, -1], repeat=len(values)))
    extreme = sum(
        abs(sum(sign * value for sign, value in zip(signs, values, strict=True))) >= seen - 1e-9 for signs in patterns
    )
    assert randomisation_test(values, [0.0] * len(values)) == extreme / len(patterns)


def test_sampled_randomisation_agrees_with_the_exact_one() -> None:
    rng = np.random.default_rng(3)
    d = rng.normal(0.2, 0.5, 16)
    signs = 1 - 2 * (np.arange(2**16)[:, None] >> np.arange(16) & 1)
    exact = np.mean(np.abs(signs @ d) >= abs(d.sum()) - 1e-9)
    assert randomisation_test(d, np.zeros(16), samples=20_000) == pytest.approx(exact, abs=0.01)


def test_false_alarms_are_as_rare_as_promised() -> None:
    rng = np.random.default_rng(4)
    alarms = {"bootstrap": 0, "randomisation": 0}
    trials = 300
    for trial in range(trials):
        a, b = rng.random(60) ** 3, rng.random(60) ** 3
        alarms["bootstrap"] += paired_bootstrap(a, b, samples=500, seed=trial).p <= 0.05
        alarms["randomisation"] += randomisation_test(a, b, samples=500, seed=trial) <= 0.05
    # 95 % of binomial(300, 0.05) lies in 8..23; four standard deviations reach 30.
    assert all(4 <= count <= 30 for count in alarms.values()), alarms


def test_seed_mean_averages_per_query() -> None:
    assert seed_mean([{"a": 1.0, "b": 0.0}, {"b": 1.0, "a": 0.5}]) == {"a": 0.75, "b": 0.5}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: paired_bootstrap({"a": 1.0, "b": 1.0}, {"a": 1.0, "c": 1.0}),
            "1 are only in a .*'b'.* 1 only in b .*'c'",
        ),
        (lambda: paired_bootstrap([1.0, 2.0], [1.0]), "2 in a, 1 in b"),
        (lambda: paired_bootstrap([1.0], [1.0]), "at least two queries, and got 1"),
        (lambda: randomisation_test([math.nan, 1.0], [0.0, 0.0]), "NaN"),
        (lambda: seed_mean([{"a": 1.0}, {"b": 1.0}]), "only in seed 2"),
        (lambda: seed_mean([]), "at least one seed"),
    ],
)
def test_unusable_scores_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=30))
def test_interval_holds_the_mean_and_swapping_sides_mirrors_it(values: list[float]) -> None:
    zeros = [0.0] * len(values)
    there, back = paired_bootstrap(values, zeros, samples=400), paired_bootstrap(zeros, values, samples=400)
    assert min(values) - 1e-9 <= there.low <= there.high <= max(values) + 1e-9
    assert back.low == pytest.approx(-there.high, abs=1e-9)
    assert back.p == there.p
    assert 0 < there.p <= 1
