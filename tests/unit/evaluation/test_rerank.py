"""The order after re-ranking."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retort.evaluation.rerank import reranked
from retort.metrics.measures import evaluate


def test_read_passages_go_by_score_and_the_rest_follow_in_their_order() -> None:
    ranking = [("a", 0.9), ("b", 0.8), ("c", 0.7), ("d", 0.6)]
    assert reranked(ranking, {"a": -3.0, "b": 2.5}) == [("b", 2.5), ("a", -3.0), ("c", -4.0), ("d", -5.0)]
    assert reranked(ranking, {}) == [("a", -1.0), ("b", -2.0), ("c", -3.0), ("d", -4.0)]
    assert reranked([], {}) == []


@given(st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=30), st.integers(0, 100))
def test_recall_of_the_whole_ranking_never_changes_and_scores_fall(logits: list[float], unread: int) -> None:
    ids = [f"p{number}" for number in range(len(logits) + unread)]
    ranking = [(passage, 1.0) for passage in ids]
    found = reranked(ranking, dict(zip(ids, logits, strict=False)))
    assert sorted(passage for passage, _ in found) == sorted(ids)
    scores = np.array([score for _, score in found], dtype=np.float32)
    assert (np.diff(scores) <= 0).all()
    assert (np.diff(scores[len(logits) - 1 :]) < 0).all()  # in float32 too: no measure sees a tie among the unread
    last = {"q": {ids[-1]: 1}}
    assert evaluate({"q": dict(found)}, last, ["recall@200"])["recall@200"]["q"] == 1.0
