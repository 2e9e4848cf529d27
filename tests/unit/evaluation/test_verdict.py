"""Student or base: served only when better and proven."""

from __future__ import annotations

import numpy as np
import pytest

from retort.evaluation.verdict import decide


def judge(gain: float, queries: int = 200, spread: float = 0.1) -> dict[str, object]:
    rng = np.random.default_rng(0)
    base = {f"q{number}": float(value) for number, value in enumerate(rng.random(queries))}
    noise = rng.normal(0, spread, queries)
    noise -= noise.mean()
    student = {query: value + gain + float(wiggle) for (query, value), wiggle in zip(base.items(), noise, strict=True)}
    return decide(student, base, measure="mrr@10", split="dev", alpha=0.05, samples=2000, seed=13)


def test_a_proven_gain_is_served_with_its_evidence() -> None:
    found = judge(0.05)
    assert found["serve"] == "student"
    assert found["difference"] == pytest.approx(0.05)
    assert found["p"] < 0.01  # type: ignore[operator]
    for part in ("200 dev queries", "MRR@10", "+0.050", "The student is served"):
        assert part in str(found["why"])


def test_a_gain_that_chance_explains_keeps_the_base() -> None:
    found = judge(0.004)
    assert found["serve"] == "base"
    assert "not proven better" in str(found["why"])
    assert "The base encoder is served" in str(found["why"])


@pytest.mark.parametrize("gain", [0.0, -0.05])
def test_no_gain_keeps_the_base_even_when_the_loss_is_significant(gain: float) -> None:
    found = judge(gain)
    assert found["serve"] == "base"
    assert "not better" in str(found["why"])


def test_three_queries_prove_nothing() -> None:
    """A bootstrap of three equal gains has no spread at all and would be sure; the exact test knows that p is 1/4."""
    student, base = dict.fromkeys("abc", 1.0), dict.fromkeys("abc", 0.5)
    found = decide(student, base, measure="mrr@10", split="test", alpha=0.05, samples=2000, seed=13)
    assert (found["serve"], found["p"]) == ("base", 0.25)


def test_identical_systems_keep_the_base() -> None:
    found = judge(0.0, spread=0.0)
    assert (found["serve"], found["p"], found["difference"]) == ("base", 1.0, 0.0)
