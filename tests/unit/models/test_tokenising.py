"""Texts that no tokenizer can read, and threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from retort.models.fakes import tiny_tokenizer
from retort.models.tokenising import TextTokenizer, UnencodableTextError, unencodable


def test_a_lone_surrogate_is_named_with_its_position():
    cutter = TextTokenizer(tiny_tokenizer(), 16)
    with pytest.raises(UnencodableTextError, match=r"Text 1 .*character 3 is the lone surrogate U\+DC80") as caught:
        cutter.ids(["fine", "abc\udc80"])
    assert caught.value.index == 1


def test_what_is_no_string_is_named():
    with pytest.raises(UnencodableTextError, match="Text 0 .*NoneType"):
        TextTokenizer(tiny_tokenizer(), 16).ids([None])


@pytest.mark.parametrize("text", ["", "\x00", "\u200d" * 5, "😀" * 50, "a" * 100_000, "\ufffe\uffff", "e\u0301" * 9])
def test_odd_texts_are_cut_without_error(text):
    assert unencodable(text) is None
    (ids,) = TextTokenizer(tiny_tokenizer(), 16).ids([text])
    assert 2 <= len(ids) <= 16


def test_ids_equal_those_of_the_tokenizer_itself():
    tokenizer = tiny_tokenizer(["quick"])
    texts = ["the quick file", "x" * 40]
    expected = tokenizer(texts, truncation=True, max_length=10)["input_ids"]
    assert TextTokenizer(tokenizer, 10).ids(texts) == expected


def test_threads_share_a_tokenizer():
    cutter = TextTokenizer(tiny_tokenizer(), 16)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: cutter.ids([f"read file {i}"] * 20), range(64)))
    assert all(result == cutter.ids([f"read file {i}"] * 20) for i, result in enumerate(results))
