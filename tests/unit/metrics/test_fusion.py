"""Reciprocal rank fusion on rankings small enough to add up by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retort.metrics.fusion import reciprocal_rank_fusion


def test_adds_reciprocal_ranks() -> None:
    fused = reciprocal_rank_fusion([["a", "b", "c"], ["b", "d"]])
    assert fused == [
        ("b", pytest.approx(1 / 62 + 1 / 61)),
        ("a", pytest.approx(1 / 61)),
        ("d", pytest.approx(1 / 62)),
        ("c", pytest.approx(1 / 63)),
    ]


def test_equal_sums_go_by_ascending_id_and_the_limit_cuts() -> None:
    assert [passage for passage, _ in reciprocal_rank_fusion([["b"], ["a"], ["c"]], limit=2)] == ["a", "b"]


def test_weights_and_smoothing() -> None:
    assert reciprocal_rank_fusion([["a"], ["b"]], weights=[1, 3], smoothing=0) == [("b", 3.0), ("a", 1.0)]


def test_a_passage_named_twice_counts_once() -> None:
    assert reciprocal_rank_fusion([["a", "a", "b"]], smoothing=0) == [("a", 1.0), ("b", 0.5)]


@pytest.mark.parametrize("wrong", [{"weights": [1.0]}, {"weights": [1.0, -1.0]}, {"smoothing": -1.0}])
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"weights|smoothing"):
        reciprocal_rank_fusion([["a"], ["b"]], **wrong)


@given(st.lists(st.permutations("abcd"), min_size=1, max_size=4))
def test_one_ranking_repeated_keeps_its_order_and_all_passages_stay(rankings: list[list[str]]) -> None:
    assert {passage for passage, _ in reciprocal_rank_fusion(rankings)} == set("abcd")
    assert [passage for passage, _ in reciprocal_rank_fusion([rankings[0]] * 3)] == rankings[0]
