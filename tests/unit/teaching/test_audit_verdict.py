"""Thresholds: what passes, what fails, what is not measured."""

from __future__ import annotations

from typing import Any

import pytest

from retort.teaching.audit_verdict import Thresholds, choose, decide


def entry(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "name": "t",
        "unseen": {"pair_accuracy": {"mean": 0.9, "low": 0.8, "high": 0.95, "queries": 100}},
        "gap": {"mean": 0.02, "low": 0.0, "high": 0.04},
        "gap_missing": "it was imported",
        "against_search": {"mean": 0.05},
        "calibration": {"raw": {"ece": 0.4}, "fitted": {"ece": 0.03}},
        "length_correlation": {"mean": -0.1},
        "worst_slice": {"by": "section", "label": "x", "loss": 0.01},
    }
    return {**good, **changes}


def test_a_good_teacher_passes_every_check() -> None:
    verdict = decide(entry(), Thresholds())
    assert verdict["passed"] and "All 7 checks" in verdict["why"]
    assert [check["passed"] for check in verdict["checks"]] == [True] * 7


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"unseen": {"pair_accuracy": {"mean": 0.6, "queries": 100}}}, "Unseen pair accuracy is 0.600; at least 0.700"),
        ({"unseen": {"pair_accuracy": {"mean": 0.9, "queries": 9}}}, "Number of unseen queries is 9; at least 30"),
        ({"unseen": {"pair_accuracy": None}}, "Number of unseen queries is 0"),
        ({"gap": {"mean": 0.2}}, "Gap between seen and unseen is 0.200; at most 0.100"),
        ({"against_search": {"mean": -0.1}}, "Loss of nDCG@10 to the search is 0.100; at most 0.020"),
        ({"calibration": {"raw": {"ece": 0.1}, "fitted": {"ece": 0.2}}}, "after shift and scale is 0.200"),
        ({"length_correlation": {"mean": -0.6}}, "Correlation of score and length is 0.600"),
        ({"worst_slice": {"by": "section", "label": "x", "loss": 0.3}}, r"worst slice (section: x) is 0.300"),
    ],
)
def test_each_check_fails_by_itself(changes: dict[str, Any], said: str) -> None:
    verdict = decide(entry(**changes), Thresholds())
    assert not verdict["passed"] and said in verdict["why"]


def test_what_could_not_be_measured_decides_nothing_and_is_said() -> None:
    verdict = decide(entry(gap=None, against_search=None), Thresholds())
    assert verdict["passed"]
    assert "All 5 checks" in verdict["why"] and "gap between seen and unseen (it was imported)" in verdict["why"]


def test_checks_can_be_left_out_and_the_raw_error_asked_for() -> None:
    bare = Thresholds(
        least_pair_accuracy=None, largest_gap=None, largest_loss_to_search=None, largest_ece=None,
        largest_length_correlation=None, largest_slice_loss=None, least_queries=2,
    )  # fmt: skip
    assert len(decide(entry(), bare)["checks"]) == 1
    raw = decide(entry(), Thresholds(largest_raw_ece=0.2))
    assert "Calibration error is 0.400; at most 0.200" in raw["why"]


def test_figures_that_look_equal_to_the_limit_are() -> None:
    assert decide(entry(gap={"mean": 0.10049}), Thresholds())["passed"]
    assert not decide(entry(gap={"mean": 0.1006}), Thresholds())["passed"]


def test_the_choice_is_the_most_accurate_of_those_that_passed() -> None:
    def named(name: str, accuracy: float, passed: bool) -> dict[str, Any]:
        return {"name": name, "unseen": {"pair_accuracy": {"mean": accuracy}}, "verdict": {"passed": passed}}

    assert choose([named("a", 0.8, True), named("b", 0.99, False), named("c", 0.9, True)]) == "c"
    assert choose([named("b", 0.99, False)]) is None
