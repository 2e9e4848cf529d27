"""Measures against values computed by hand from trec_eval's definitions, and against a second implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retort.errors import InputError
from retort.metrics.measures import evaluate, mean, parse_measure

ALL = (
    "mrr@1",
    "mrr@3",
    "mrr@10",
    "ndcg@1",
    "ndcg@3",
    "ndcg@10",
    "recall@1",
    "recall@3",
    "recall@10",
    "success@2",
    "success@10",
)


def test_values_computed_by_hand() -> None:
    qrels = {"q": {"a": 2, "b": 1, "c": 0, "d": 1}}
    run = {"q": {"c": 5.0, "b": 4.0, "x": 3.0, "a": 2.0}}  # grades down the ranking: 0, 1, unjudged, 2; d is not found
    found = evaluate(
        run, qrels, ["mrr@10", "mrr@1", "ndcg@10", "ndcg@3", "recall@10", "recall@2", "success@1", "success@2"]
    )
    best = 2 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    assert found["mrr@10"]["q"] == pytest.approx(1 / 2)
    assert found["mrr@1"]["q"] == 0.0
    assert found["ndcg@10"]["q"] == pytest.approx((1 / math.log2(3) + 2 / math.log2(5)) / best)
    assert found["ndcg@3"]["q"] == pytest.approx((1 / math.log2(3)) / best)
    assert found["recall@10"]["q"] == pytest.approx(2 / 3)
    assert found["recall@2"]["q"] == pytest.approx(1 / 3)
    assert (found["success@1"]["q"], found["success@2"]["q"]) == (0.0, 1.0)


def test_queries_absent_from_the_run_count_zero_and_unjudged_queries_are_left_out() -> None:
    qrels = {"found": {"a": 1}, "absent": {"a": 1}, "empty": {"a": 1}, "nothing relevant": {"a": 0}, "no qrels": {}}
    run = {
        "found": {"a": 1.0},
        "empty": {},
        "nothing relevant": {"a": 1.0},
        "no qrels": {"a": 1.0},
        "unjudged": {"a": 1.0},
    }
    for name, values in evaluate(run, qrels, ALL).items():
        assert list(values) == list(qrels), name
        assert values == {query: float(query == "found") for query in qrels}, name
    assert evaluate({}, qrels)["mrr@10"] == dict.fromkeys(qrels, 0.0)


def test_ties_go_by_descending_passage_id_whatever_the_order_of_the_run() -> None:
    qrels = {"q": {"a": 1}}
    for run in ({"a": 1.0, "b": 1.0, "Z": 1.0}, {"Z": 1.0, "b": 1.0, "a": 1.0}):
        assert evaluate({"q": run}, qrels, ["mrr@10"])["mrr@10"]["q"] == pytest.approx(1 / 2)  # b, a, Z
    assert evaluate({"q": {"a": 1.0, "é": 1.0}}, qrels, ["mrr@10"])["mrr@10"]["q"] == pytest.approx(1 / 2)


def test_scores_that_are_equal_in_float32_are_ties() -> None:
    assert evaluate({"q": {"a": 1.0 + 1e-9, "b": 1.0}}, {"q": {"a": 1}}, ["mrr@10"])["mrr@10"]["q"] == pytest.approx(
        1 / 2
    )
    assert evaluate({"q": {"a": 1.0 + 1e-6, "b": 1.0}}, {"q": {"a": 1}}, ["mrr@10"])["mrr@10"]["q"] == 1.0


@pytest.mark.parametrize("rank", range(1, 61))
def test_reciprocal_rank_is_cut_exactly_at_k(rank: int) -> None:
    run = {"q": {f"p{place:03d}": float(-place) for place in range(1, 100)}}
    found = evaluate(
        run, {"q": {f"p{rank:03d}": 1}}, [f"mrr@{rank}", f"mrr@{rank + 1}"] + ([f"mrr@{rank - 1}"] if rank > 1 else [])
    )
    assert found[f"mrr@{rank}"]["q"] == found[f"mrr@{rank + 1}"]["q"] == pytest.approx(1 / rank)
    assert found.get(f"mrr@{rank - 1}", {"q": 0.0})["q"] == 0.0


def test_numpy_numbers_and_several_cutoffs_of_one_family_are_taken() -> None:
    found = evaluate(
        {"q": {"a": np.float32(1), "b": np.float64(2)}}, {"q": {"a": np.int64(1)}}, ["recall@1", "recall@2", "Recall@2"]
    )  # type: ignore[dict-item]
    assert [found[name]["q"] for name in ("recall@1", "recall@2", "Recall@2")] == [0.0, 1.0, 1.0]


def test_a_score_of_nan_is_refused() -> None:
    with pytest.raises(InputError, match=r"'p'.*'q'.*NaN"):
        evaluate({"q": {"p": math.nan}}, {"q": {"p": 1}})


@pytest.mark.parametrize("name", ["mrr", "map@10", "ndcg@0", "ndcg@ten", "recall@-1", "", "ndcg@1.5"])
def test_unknown_measures_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(InputError, match="mrr@k, ndcg@k, recall@k, success@k"):
        parse_measure(name)


def test_mean_over_queries() -> None:
    assert mean({"a": 1.0, "b": 0.5}) == 0.75
    assert math.isnan(mean([]))


# A second implementation, written from the definitions in the module's docstring.


def ranked(scores: dict[str, float]) -> list[str]:
    by_id = sorted(scores, key=lambda passage: passage.encode(), reverse=True)
    return sorted(by_id, key=lambda passage: -np.float32(scores[passage]))


def by_hand(name: str, scores: dict[str, float], grades: dict[str, int]) -> float:
    family, k = parse_measure(name)
    top = ranked(scores)[:k]
    relevant = {passage for passage, grade in grades.items() if grade >= 1}
    if family == "mrr":
        return next((1 / rank for rank, passage in enumerate(top, 1) if passage in relevant), 0.0)
    if family == "recall":
        return len(relevant.intersection(top)) / len(relevant) if relevant else 0.0
    if family == "success":
        return float(bool(relevant.intersection(top)))
    gains = [max(0, grades.get(passage, 0)) for passage in top]
    best = sorted((max(0, grade) for grade in grades.values()), reverse=True)[:k]
    ideal = sum(gain / math.log2(rank + 1) for rank, gain in enumerate(best, 1))
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1)) / ideal if ideal else 0.0


passages = st.text(alphabet="abcZé7", min_size=1, max_size=2)
# Few distinct scores, so that ties are common.
runs = st.dictionaries(passages, st.sampled_from([-1.5, 0.0, 0.5, 0.5 + 1e-9, 2.0]), max_size=15)
judged = st.dictionaries(passages, st.integers(-1, 3), max_size=8)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from("qrs"), st.tuples(runs, judged), min_size=1))
def test_agrees_with_a_second_implementation(cases: dict[str, tuple[dict[str, float], dict[str, int]]]) -> None:
    run = {query: scores for query, (scores, _) in cases.items()}
    qrels = {query: grades for query, (_, grades) in cases.items()}
    found = evaluate(run, qrels, ALL)
    for name in ALL:
        for query in qrels:
            assert found[name][query] == pytest.approx(by_hand(name, run[query], qrels[query]), abs=1e-6), (name, query)
