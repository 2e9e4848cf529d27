from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retort.corpus.passages import content_hash, passage_text, sentence_spans, split_document, split_spans
from retort.corpus.words import word_spans

DOCUMENTS = st.lists(
    st.sampled_from(
        [
            "word",
            "Word",
            "a.b",
            "don't",
            ".",
            ". ",
            "! ",
            "\n",
            "\n\n",
            " ",
            "漢字",
            "。",
            "ไทย",
            "**",
            '"',
            "x_y",
            "9.5",
            "e.g. ",
        ]
    ),
    max_size=120,
).map("".join)


def words(text: str) -> list[str]:
    return [text[start:end] for start, end in word_spans(text)]


def test_passage_text_joins_title_and_text_with_a_newline() -> None:
    assert passage_text("T", "x") == "T\nx"
    assert passage_text("", "x") == "x"
    assert passage_text("T", "") == "T"


def test_content_hash_is_of_the_passage_text() -> None:
    assert content_hash("T", "x") == hashlib.sha256(b"T\nx").hexdigest()[:16]
    with pytest.raises(UnicodeEncodeError):
        content_hash("", "\ud800")


def test_a_text_that_fits_stays_whole() -> None:
    assert split_document("  One two.\n\nThree.  ", max_words=3) == ["One two.\n\nThree."]
    assert split_document(" \n… ", max_words=3) == []


def test_cuts_fall_between_paragraphs_where_they_can() -> None:
    text = "One two three. Four five six.\n\nSeven eight nine. Ten eleven twelve."
    assert split_document(text, max_words=6) == [
        "One two three. Four five six.",
        "Seven eight nine. Ten eleven twelve.",
    ]
    assert split_document(text, max_words=8) == [
        "One two three. Four five six.",
        "Seven eight nine. Ten eleven twelve.",
    ]


def test_cuts_fall_between_sentences_else_words() -> None:
    assert split_document("One two three. Four five six. Seven.", max_words=4) == [
        "One two three.",
        "Four five six. Seven.",
    ]
    assert split_document("one two three four five six seven", max_words=3) == [
        "one two",
        "three four",
        "five six seven",
    ]


def test_pieces_are_even() -> None:
    text = " ".join(f"Sentence number {n} has six words." for n in range(21))
    counts = [len(words(piece)) for piece in split_document(text, max_words=100)]
    assert sum(counts) == 126 and len(counts) == 2 and abs(counts[0] - counts[1]) <= 6


def test_overlap_begins_at_a_sentence_where_one_fits() -> None:
    text = "One two three four five. Six seven. Eight nine ten eleven twelve."
    pieces = split_document(text, max_words=9, overlap=2)
    assert pieces == ["One two three four five. Six seven.", "Six seven. Eight nine ten eleven twelve."]
    long = " ".join(f"w{n}" for n in range(40))
    first, second = split_document(long, max_words=10, overlap=4)[:2]
    assert words(first)[-4:] == words(second)[:4]


@pytest.mark.parametrize(("max_words", "overlap"), [(0, 0), (5, 5), (5, -1)])
def test_impossible_budgets_are_refused(max_words: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="max_words"):
        split_document("x y z", max_words, overlap)


@given(DOCUMENTS, st.integers(1, 12))
def test_without_overlap_no_word_is_lost_or_doubled(text: str, max_words: int) -> None:
    spans = split_spans(text, max_words)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    pieces = [text[start:end] for start, end in spans]
    assert [word for piece in pieces for word in words(piece)] == words(text)
    assert all(1 <= len(words(piece)) <= max_words for piece in pieces)
    assert all(piece == piece.strip() for piece in pieces)


@given(DOCUMENTS, st.integers(2, 12), st.data())
def test_with_overlap_pieces_stay_in_budget_and_cover_the_text(text: str, max_words: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(1, max_words - 1))
    spans = split_spans(text, max_words, overlap)
    assert all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(spans))
    covered = {place for start, end in spans for place in range(start, end)}
    assert all(start in covered for start, _ in word_spans(text))
    assert all(len(words(text[start:end])) <= max_words for start, end in spans)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? four", ["One.", "Two!", "Three? four"]),
        ("By J. Smith, e.g. here. Next.", ["By J. Smith, e.g. here.", "Next."]),
        ("最初の文。次の文！", ["最初の文。", "次の文！"]),
        ("Heading\n\ntext below", ["Heading", "text below"]),
        ('He said "no." She left.', ['He said "no."', "She left."]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in sentence_spans(text)] == expected
