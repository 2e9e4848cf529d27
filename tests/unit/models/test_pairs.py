"""Pairs put together from cut texts equal what the tokenizer makes of them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retort.errors import ModelError
from retort.models.fakes import tiny_tokenizer
from retort.models.pairs import PairCutter
from retort.models.tokenising import UnencodableTextError

TOKENIZER = tiny_tokenizer()
TEXTS = st.text(alphabet="ab file, 日", max_size=12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_sequences_equal_the_tokenizers(pairs):
    cutter = PairCutter(TOKENIZER, 64)
    cut = cutter.cut(pairs, with_words=False)
    inputs = cutter.assemble(cut.windows).inputs
    expected = TOKENIZER([q for q, _ in pairs], [p for _, p in pairs], padding=True, return_tensors="pt")
    assert set(inputs) == set(expected)
    for name, tensor in inputs.items():
        assert tensor.tolist() == expected[name].tolist(), name
    assert cut.lengths.tolist() == expected["attention_mask"].sum(dim=1).tolist()


def test_windows_cover_a_long_passage_and_overlap():
    cutter = PairCutter(TOKENIZER, 23, overlap=0.25)
    passage = " ".join("abcdefghijklmnopqrstuvwxyz0123456789")
    cut = cutter.cut([("file", passage), ("file", "x")], with_words=True)
    mine = [window for window in cut.windows if window.pair == 0]
    assert [window.number for window in mine] == list(range(len(mine)))
    assert mine[0].start == 0
    assert mine[-1].stop == 36
    assert all(later.start < earlier.stop for earlier, later in itertools.pairwise(mine))
    assert all(length <= 23 for length in cut.lengths)
    words = cutter.assemble(mine).passage_words
    # Words keep the numbers they have in the whole passage.
    assert [int(row[..., 1].max()) for row in words] == [window.stop for window in mine]


def test_a_query_takes_at_most_half_of_the_room():
    cutter = PairCutter(TOKENIZER, 23)
    (window,) = cutter.cut([("a " * 50, "b " * 10)], with_words=False).windows
    assert (window.query_tokens, window.stop - window.start) == (10, 10)


def test_the_pair_with_an_unencodable_text_is_named():
    with pytest.raises(UnencodableTextError) as caught:
        PairCutter(TOKENIZER, 23).cut([("a", "b"), ("a", "c"), ("a", "x\ud800")], with_words=False)
    assert caught.value.index == 2


def test_no_room_for_texts_is_an_error():
    with pytest.raises(ModelError, match="leaves 3"):
        PairCutter(TOKENIZER, 6)


def test_words_are_where_the_tokens_are():
    cutter = PairCutter(TOKENIZER, 64)
    batch = cutter.assemble(cutter.cut([("read, file", "the xy file")], with_words=True).windows)
    tokens = TOKENIZER.convert_ids_to_tokens(batch.inputs["input_ids"][0].tolist())
    assert tokens == ["[CLS]", "read", ",", "file", "[SEP]", "the", "x", "##y", "file", "[SEP]"]
    query, passage = np.diff(batch.query_words[0]).ravel() > 0, np.diff(batch.passage_words[0]).ravel() > 0
    assert query.tolist() == [False, True, False, True, *[False] * 6]
    assert passage.tolist() == [*[False] * 5, True, True, True, True, False]
    assert batch.passage_words[0, 5:9, 0].tolist() == [0, 1, 1, 2]
