"""Which words are marked, and which stretch is shown."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from retort.corpus.words import fold, word_spans
from retort.serving.highlights import Highlighter, best_window, common_words


def marked(query, text, common=frozenset()):
    return [text[start:end] for start, end in Highlighter(query, common).matches(text)]


@pytest.mark.parametrize(
    ("query", "text", "words"),
    [
        ("read files", "Reading a file, then READ it.", ["Reading", "file", "READ"]),
        ("index", "indexes, indexing and indices", ["indexes", "indexing"]),
        ("cat", "cats and category", []),  # too short a beginning to judge by
        ("straße", "STRASSE", ["STRASSE"]),
        ("datei öffnen", "Dateien öffnet man", ["Dateien", "öffnet"]),
        ("東京", "東京都", ["東", "京"]),
        ("numpy.ndarray", "a numpy.ndarray here", ["numpy.ndarray"]),
    ],
)
def test_words_match_by_fold_and_by_beginning(query, text, words):
    assert marked(query, text) == words


def test_function_words_of_the_corpus_are_not_marked_unless_nothing_else_is_asked():
    common = common_words([f"the cat of house {number} is grey" for number in range(20)])
    assert {"the", "of", "is", "cat"} == common  # short and everywhere; "house" and "grey" are everywhere and longer
    assert common_words(["the cat"] * 5) == frozenset()
    assert marked("the house", "the house", common) == ["house"]
    assert marked("the of", "the house of cards", common) == ["the", "of"]


def test_of_a_pasted_page_the_first_words_that_say_something_are_marked():
    words = [f"word{number}x" for number in range(200)]
    common = frozenset({"the"})
    found = marked("the ".join(["", *[f"{word} {word} " for word in words]]), " ".join(["the", *words]), common)
    assert found == words[:64]


def test_the_window_holds_the_densest_matches_and_its_offsets_count_from_its_start():
    text = "nothing here " * 40 + "the needle and a second needle lie here. " + "more of nothing " * 40
    window = best_window(text, Highlighter("needle").matches(text), size=100)
    shown = text[window.start : window.end]
    assert [shown[start:end] for start, end in window.words] == ["needle", "needle"]
    assert window.end - window.start <= 130 and window.start > 400
    assert text[window.start - 1] == " "


def test_a_short_text_is_shown_whole():
    window = best_window("a needle", [(2, 8)])
    assert (window.start, window.end, window.words) == (0, 8, [(2, 8)])


@given(st.text(max_size=600), st.text(max_size=40), st.integers(10, 80))
@example("0 0000000000", "0000000000", 10)
def test_windows_lie_inside_the_text_and_words_inside_the_window(text, query, size):
    window = best_window(text, Highlighter(query).matches(text), size)
    assert 0 <= window.start <= window.end <= len(text)
    assert window.end - window.start <= size + 30 or window.end - window.start == len(text)
    assert all(0 <= start < end <= window.end - window.start for start, end in window.words)


WORDS = st.sampled_from(
    [
        "index",
        "indexes",
        "Indexing",
        "in",
        "can't",
        "3.14",
        "utf8",
        "x",
        "std::vector",
        "_index_",
        "naïve",
        "ſo",
        "files\tfile",
        "K",
    ]
)
TEXTS = st.lists(st.one_of(WORDS, st.text(max_size=8)), max_size=12).map(" ".join)


@given(TEXTS, TEXTS)
def test_looking_only_where_words_may_begin_finds_what_looking_at_every_word_finds(text, query):
    marker = Highlighter(query)
    every = [(start, end) for start, end in word_spans(text) if marker._is_match(fold(text[start:end]))]
    assert marker.matches(text) == every
