"""Batches by tokens."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retort.models.batching import pad, token_batches


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 120), st.none() | st.integers(1, 5))
def test_every_row_is_in_one_batch_within_the_budget(lengths, budget, max_rows):
    batches = token_batches(lengths, budget, max_rows)
    assert sorted(np.concatenate([[], *batches]).astype(int).tolist()) == list(range(len(lengths)))
    for rows in batches:
        longest = max(lengths[i] for i in rows)
        assert len(rows) == 1 or longest * len(rows) <= budget
        assert max_rows is None or len(rows) <= max_rows


def test_longest_rows_come_first_and_equal_ones_in_order():
    batches = token_batches([1, 5, 3, 5, 1], 10)
    assert [rows.tolist() for rows in batches] == [[1, 3], [2, 0, 4]]


def test_pad_fills_up_with_the_value_and_masks_it():
    ids, mask = pad([[7, 8, 9], [5]], 1)
    assert ids.tolist() == [[7, 8, 9], [5, 1, 1]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert pad([], 0)[0].shape == (0, 0)
