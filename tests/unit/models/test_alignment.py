"""Tokens to words."""

import itertools

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from retort.corpus.words import word_spans
from retort.models.alignment import pad_words, pooling_matrices, token_words, word_ranges, words_present


def test_subwords_belong_to_their_word_and_punctuation_to_none():
    #           [CLS]   tok      en       ,        isation -> "token, is"
    offsets = [(0, 0), (0, 3), (3, 5), (5, 6), (7, 9), (0, 0)]
    words = token_words(offsets, "token, is", special=[1, 0, 0, 0, 0, 1])
    assert words.tolist() == [[0, 0], [0, 1], [0, 1], [0, 0], [1, 2], [0, 0]]


def test_prefix_belongs_to_no_word():
    #  "query: file"
    words = token_words([(0, 0), (0, 5), (5, 6), (7, 11)], "file", special=[1, 0, 0, 0], skip=len("query: "))
    assert words.tolist() == [[0, 0], [0, 0], [0, 0], [0, 1]]


def test_a_piece_longer_than_a_word_has_several():
    assert word_spans("日本語") == [(0, 1), (1, 2), (2, 3)]
    assert token_words([(0, 2), (2, 3)], "日本語").tolist() == [[0, 2], [2, 3]]


@given(st.text(alphabet="ab -,日é'", max_size=30), st.lists(st.integers(0, 30), max_size=8))
def test_ranges_are_the_words_that_share_a_character(text, cuts):
    bounds = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    places = np.array(list(itertools.pairwise(bounds)), dtype=np.int64).reshape(-1, 2)
    spans = word_spans(text)
    ranges = word_ranges(places, np.array(spans, dtype=np.int64).reshape(-1, 2))
    for (start, end), (first, stop) in zip(places.tolist(), ranges.tolist()):
        touched = [i for i, (s, e) in enumerate(spans) if s < end and start < e]
        assert list(range(first, stop)) == touched


def test_matrices_average_rows_and_sum_columns():
    words = np.array([[0, 0], [0, 1], [0, 1], [1, 2]], dtype=np.int32)  # none, word 0 twice, word 1
    columns, rows = pooling_matrices([words])
    attention = torch.tensor([[[9.0, 0.1, 0.2, 0.7], [9.0, 0.2, 0.3, 0.5], [9.0, 0.4, 0.1, 0.5], [9.0, 0.0, 0.0, 1.0]]])
    expected = torch.tensor([[[(0.5 + 0.5) / 2, 0.5], [0.0, 1.0]]])
    assert torch.allclose(rows @ attention @ columns, expected)


def test_a_token_of_two_words_gives_each_half():
    columns, rows = pooling_matrices([np.array([[0, 2], [1, 2]], dtype=np.int32)])
    assert columns.tolist() == [[[0.5, 0.5], [0.0, 1.0]]]
    assert torch.allclose(rows, torch.tensor([[[1.0, 0.0], [1 / 3, 2 / 3]]]))


def test_texts_of_a_batch_are_padded_with_zeros():
    columns, rows = pooling_matrices(
        [np.zeros((0, 2), np.int32), np.array([[0, 1]], dtype=np.int32)], tokens=3, width=2
    )
    assert columns.shape == (2, 3, 2)
    assert rows.shape == (2, 2, 3)
    assert columns.sum() == 1
    assert rows[1, 1].sum() == 0


def test_words_present_are_those_with_a_column():
    words = [np.array([[0, 0], [1, 3], [0, 0]], dtype=np.int32), np.array([[0, 1]], dtype=np.int32)]
    present = words_present(pad_words(words), 4)
    assert present.tolist() == [[False, True, True, False], [True, False, False, False]]
    columns, _ = pooling_matrices(words, width=4)
    assert torch.equal(present, columns.sum(dim=1) > 0)
