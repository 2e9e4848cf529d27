"""Concordance by hand, and against the definition."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retort.teaching.concordance import by_query, label_concordance, order_concordance


def test_by_hand() -> None:
    scores = np.array([3.0, 1.0, 3.0, 5.0, 9.0])
    relevant = np.array([True, False, False, False, True])
    query = np.array([0, 0, 0, 0, 1])
    found = label_concordance(scores, relevant, query)
    # The relevant one beats 1, ties with 3, loses to 5; the last query has nothing to compare with.
    np.testing.assert_allclose(found, [0.5, 1.0, 0.5, 0.0, np.nan])
    assert by_query(found, query, relevant) == {0: 0.5}


def test_two_teachers_by_hand() -> None:
    query = np.zeros(3, dtype=np.int64)
    ours, theirs = np.array([3.0, 2.0, 1.0]), np.array([3.0, 1.0, 2.0])
    np.testing.assert_allclose(order_concordance(ours, theirs, query), [1.0, 0.5, 0.5])
    np.testing.assert_allclose(order_concordance(ours, -ours, query), [0.0, 0.0, 0.0])
    missing = np.array([1.0, np.nan, 0.0])
    np.testing.assert_allclose(order_concordance(ours, missing, query), [1.0, np.nan, 1.0])
    assert np.isnan(order_concordance(np.ones(1), np.ones(1), np.zeros(1, dtype=np.int64))).all()


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 4)), max_size=30))
def test_it_is_the_share_of_right_comparisons(rows: list[tuple[int, bool, int]]) -> None:
    query = np.array([row[0] for row in rows], dtype=np.int64)
    relevant = np.array([row[1] for row in rows], dtype=bool)
    scores = np.array([row[2] for row in rows], dtype=np.float64)
    found = label_concordance(scores, relevant, query)
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if query[j] == query[i] and relevant[j] != relevant[i]]
        sign = 1 if relevant[i] else -1
        right = [0.5 if scores[i] == scores[j] else float(sign * (scores[i] - scores[j]) > 0) for j in others]
        assert np.isnan(found[i]) if not right else abs(found[i] - np.mean(right)) < 1e-12
