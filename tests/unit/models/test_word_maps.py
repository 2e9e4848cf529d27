"""Word maps: bytes and back, tensors for a loss."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retort.errors import CorruptError
from retort.models.word_maps import WordMap, collate, restrict, word_maps_of


def rows_of(rng, rows, columns, sharpness):
    if not rows or not columns:
        return np.zeros((rows, columns), dtype=np.float32)
    scores = rng.normal(size=(rows, columns)) * sharpness
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def make(seed=0, q=5, p=30, k=4, first=0, sharpness=2.0):
    rng = np.random.default_rng(seed)
    forward, backward = rows_of(rng, q, p, sharpness), rows_of(rng, p, q, sharpness)
    (made,) = word_maps_of(
        torch.from_numpy(forward)[None],
        torch.from_numpy(backward)[None],
        np.array([q]),
        np.array([p]),
        np.array([first]),
        k,
    )
    return made, forward, backward


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**20),
    st.integers(0, 20),
    st.integers(0, 300),
    st.integers(1, 12),
    st.integers(0, 70000),
    st.floats(0, 8),
)
def test_bytes_and_back(seed, q, p, k, first, sharpness):
    made, _, _ = make(seed, q, p, k, first, sharpness)
    found = WordMap.from_bytes(made.to_bytes())
    assert (found.query_words, found.first, found.stop) == (q, first, first + p)
    assert found.words.tolist() == made.words.tolist()
    # Half a step of the square root, 1/62 of 1, is at most 2 * 1/62 + 1/62^2 of the weight; rows are then scaled.
    assert np.abs(found.to_passage - made.to_passage).max(initial=0) < 0.08
    assert np.abs(found.to_query - made.to_query).max(initial=0) < 0.12
    assert (found.to_passage.sum(axis=1) + found.remainder <= 1 + 1e-5).all()
    if found.words.size and q:
        assert np.allclose(found.to_passage.sum(axis=1) + found.remainder, 1, atol=1e-5)
    again = WordMap.from_bytes(found.to_bytes())
    assert again.words.tolist() == found.words.tolist()


def test_a_map_of_given_numbers():
    made = WordMap(
        2,
        10,
        14,
        np.array([10, 13], np.int32),
        np.array([[0.25, 0.75], [1.0, 0.0]], np.float32),
        np.eye(2, dtype=np.float32),
    )
    data = made.to_bytes()
    # version, 2 query words, from word 10, 4 words, 2 kept, mask 1001, eight weights of five bits
    assert data[:6] == bytes([1, 2, 10, 4, 2, 0b10010000])
    assert len(data) == 6 + 5
    found = WordMap.from_bytes(data)
    assert np.allclose(found.to_passage, made.to_passage, atol=0.02)
    forward, backward = found.dense()
    assert np.allclose(forward, [[0.25, 0, 0, 0.75], [1, 0, 0, 0]], atol=0.03)
    assert np.allclose(backward, [[1, 0], [0, 0], [0, 0], [0, 1]])


def test_typical_pairs_stay_below_200_bytes():
    # Query words look at much the same words, as real teachers' do: a common part makes the union of their tops small.
    rng = np.random.default_rng(0)
    sizes, lost = [], []
    for seed in range(100):
        common = rng.normal(size=60) * 1.5
        scores = common + np.random.default_rng(seed).normal(size=(8, 60)) * 0.5
        forward = torch.softmax(torch.from_numpy(scores).float(), dim=1)[None]
        backward = torch.softmax(torch.from_numpy(rng.normal(size=(60, 8))).float(), dim=1)[None]
        (made,) = word_maps_of(forward, backward, np.array([8]), np.array([60]), np.array([0]), 8)
        found = WordMap.from_bytes(made.to_bytes())
        sizes.append(len(made.to_bytes()))
        true = np.concatenate([made.to_passage, made.remainder[:, None]], axis=1)
        near = np.concatenate([found.to_passage, found.remainder[:, None]], axis=1)
        lost.append((true * np.log(true / np.maximum(near, 1e-4))).sum(axis=1).mean())
    assert np.mean(sizes) <= 200
    assert np.mean(lost) < 0.01


def test_dense_spreads_the_remainder_and_keeps_the_sum():
    made, forward, backward = make(k=3)
    dense, back = made.dense()
    assert np.allclose(dense.sum(axis=1), 1, atol=1e-5)
    assert np.allclose(dense[:, made.words], forward[:, made.words])
    assert np.allclose(back[made.words], backward[made.words])
    assert back.sum() == pytest.approx(len(made.words), abs=1e-4)


def test_kept_words_are_the_union_of_each_query_words_largest():
    made, forward, _ = make(seed=3, k=2, first=7)
    top = np.unique(np.argsort(-forward, axis=1)[:, :2])
    assert (made.words - 7).tolist() == top.tolist()


@pytest.mark.parametrize("data", [b"", b"\x02\x01", make()[0].to_bytes()[:-3], b"\x01\x05"])
def test_what_is_no_map_is_an_error(data):
    with pytest.raises(CorruptError, match="word map"):
        WordMap.from_bytes(data)


def test_collate_pads_and_takes_pairs_without_map():
    one, two = make(q=2, p=9, k=2, first=4)[0], make(seed=1, q=4, p=5, k=5)[0]
    batch = collate([one, None, two])
    n, k = len(one.words), len(two.words)
    assert batch.index.shape == (3, 4, max(n, k))
    assert batch.index[0, 0, :n].tolist() == one.words.tolist()
    assert (batch.index[1] == -1).all()
    assert np.allclose(batch.weight[0, :2, :n], one.to_passage)
    assert np.allclose(batch.rest[0, :2], one.remainder)
    assert np.allclose(batch.row_weight[2, :k, :4], two.to_query)
    assert batch.query_words.tolist() == [2, 0, 4]
    assert batch.seen.tolist() == [[4, 13], [0, 0], [0, 5]]
    assert batch.weight[1].sum() == batch.rest[1].sum() == 0


def test_restrict_leaves_out_absent_words_and_renormalises():
    made = WordMap(
        query_words=2,
        first=0,
        stop=4,
        words=np.array([1, 3], np.int32),
        to_passage=np.array([[0.5, 0.25], [0.2, 0.2]], np.float32),
        to_query=np.array([[0.5, 0.5], [0.9, 0.1]], np.float32),
    )
    present = torch.tensor([[True, True, True, False]])  # word 3 is cut off
    found = restrict(collate([made]), torch.tensor([[True, False]]), present)
    assert found.index.tolist() == [[[1, -1], [1, -1]]]
    assert torch.allclose(found.weight, torch.tensor([[[0.5 / 0.75, 0.0], [0.0, 0.0]]]))
    assert torch.allclose(found.rest, torch.tensor([[0.25 / 0.75, 0.0]]))
    assert found.rows.tolist() == [[1, -1]]
    assert torch.allclose(found.row_weight, torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]))


def test_restrict_drops_the_bucket_where_the_student_has_no_other_words():
    made = make(q=1, p=3, k=1)[0]
    only = torch.zeros(1, 3, dtype=torch.bool)
    only[0, made.words] = True
    found = restrict(collate([made]), torch.ones(1, 1, dtype=torch.bool), only)
    assert found.weight.tolist() == [[[1.0]]]
    assert found.rest.tolist() == [[0.0]]
    nothing = restrict(collate([made]), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 0, dtype=torch.bool))
    assert nothing.weight.sum() == nothing.rest.sum() == nothing.row_weight.sum() == 0
