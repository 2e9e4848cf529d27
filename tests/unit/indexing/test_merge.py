from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retort.indexing.merge import Hits, merge_shards


def name(rows):
    return [f"p{99 - row:02d}" for row in rows]  # the order of ids is the reverse of that of rows


def hits(scores, rows):
    return Hits(np.array(scores, dtype=np.float32), np.array(rows, dtype=np.int64))


def test_best_first_across_shards_and_equal_scores_by_passage_id():
    merged = merge_shards([hits([[0.5, 0.9]], [[3, 1]]), hits([[0.9, 0.5]], [[7, 6]])], 3, name)
    assert merged.rows.tolist() == [[7, 1, 6]]  # p92 before p98, p93 before p96
    assert merged.scores.tolist() == [[np.float32(0.9), np.float32(0.9), 0.5]]


def test_missing_rows_are_last_and_the_width_is_k():
    merged = merge_shards([hits([[0.1, 5.0]], [[4, -1]])], 3, name)
    assert merged.rows.tolist() == [[4, -1, -1]]
    assert merged.scores[0, 1:].tolist() == [-np.inf, -np.inf]


def test_ids_are_asked_only_about_ties():
    def forbidden(rows):
        raise AssertionError("no ties here")

    assert merge_shards([hits([[3.0, 1.0], [2.0, 5.0]], [[0, 1], [0, 1]])], 2, forbidden).rows.tolist() == [
        [0, 1],
        [1, 0],
    ]


@given(
    scores=st.lists(st.integers(-2, 2), min_size=1, max_size=25),
    cuts=st.lists(st.integers(0, 25), max_size=4),
    k=st.integers(1, 30),
)
def test_any_division_into_shards_gives_the_ranking_of_one_sort(scores, cuts, k):
    edges = sorted({0, len(scores), *(cut for cut in cuts if cut < len(scores))})
    shards = [hits([scores[a:b]], [list(range(a, b))]) for a, b in pairwise(edges)]
    expected = sorted(range(len(scores)), key=lambda row: (-scores[row], name([row])[0]))[:k]
    merged = merge_shards(shards, k, name)
    assert [row for row in merged.rows[0].tolist() if row >= 0] == expected
    assert merged.rows.shape == (1, k)
