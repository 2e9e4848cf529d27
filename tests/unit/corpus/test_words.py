from __future__ import annotations

from itertools import pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from retort.corpus import words
from retort.corpus.words import bm25_terms, count_words, fold, word_spans

TEXTS = st.text(
    alphabet=st.one_of(
        st.sampled_from("ab Z09_.,:;'\"-\n’ßéİ漢字かなカナーไทยน้ำမာမြន်ខ្មែລາວ한국नहीं٣אב"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=60,
)


def cut(text: str) -> list[str]:
    return [text[start:end] for start, end in word_spans(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Can't stop, won't stop.", ["Can't", "stop", "won't", "stop"]),
        ("3.14 and 1,000; a.b", ["3.14", "and", "1,000", "a.b"]),
        ("'quoted' _x_ __ --", ["quoted", "_x_"]),
        ("naïve Straße don’t", ["naïve", "Straße", "don’t"]),
        ("Windowsの設定", ["Windows", "の", "設", "定"]),
        ("カタカナー人々", ["カ", "タ", "カ", "ナ", "ー", "人", "々"]),
        ("ไทย น้ำ", ["ไ", "ท", "ย", "น้ำ"]),  # a consonant keeps its tone mark and vowel sign
        ("မာ ខ្មែរ", ["မာ", "ខ្មែ", "រ"]),
        ("한국어 हिन्दी", ["한국어", "हिन्दी"]),
        ('צה"ל', ['צה"ל']),
        ("🙂 … ！", []),
        ("", []),
    ],
)
def test_words_by_hand(text: str, expected: list[str]) -> None:
    assert cut(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("ｆｕｌｌ width", ["full", "width"]),
        (
            "日本語です。次",
            ["日本", "本語", "語で", "です", "次"],
        ),  # bigrams do not cross punctuation; a lone cluster stays
        ("数 字", ["数", "字"]),
        ("ﾊﾞｽ", ["バス"]),
        ("İstanbul istanbul", ["istanbul", "istanbul"]),
        ("numpy.ndarray max_length std::vector 3.14", ["numpy", "ndarray", "max", "length", "std", "vector", "3.14"]),
        ("don’t don't", ["don't", "don't"]),
    ],
)
def test_bm25_terms_by_hand(text: str, expected: list[str]) -> None:
    assert bm25_terms(text) == expected


@given(TEXTS)
def test_spans_are_ordered_disjoint_and_inside_the_text(text: str) -> None:
    end = 0
    for start, stop in word_spans(text):
        assert end <= start < stop <= len(text)
        assert regex.search(r"[\p{Alphabetic}\p{N}\p{WB=ALetter}\p{WB=Katakana}]", text[start:stop])
        assert not text[start].isspace()
        end = stop
    assert count_words(text) == len(word_spans(text))


@given(TEXTS)
def test_no_letter_or_digit_is_outside_all_words(text: str) -> None:
    covered = {place for start, stop in word_spans(text) for place in range(start, stop)}
    outside = [character for place, character in enumerate(text) if place not in covered]
    assert not [character for character in outside if character.isascii() and character.isalnum()]
    assert not [character for character in outside if regex.match(r"[\p{L}--\p{Lm}]", character, flags=regex.V1)]


@given(st.text(alphabet="abZ09_.,:;'\"- \n", max_size=40))
def test_the_fast_rules_for_ascii_equal_the_general_ones(text: str) -> None:
    assert [match.span() for match in words._ASCII_WORD.finditer(text)] == [
        match.span() for match in words._WORD.finditer(text)
    ]


@settings(max_examples=200)
@given(st.text(alphabet="abcdéßжя09 .,-!?\n", max_size=40))
def test_words_equal_the_default_boundaries_of_the_regex_library(text: str) -> None:
    """An independent implementation, without apostrophes, where it departs from UAX #29."""
    edges = [match.start() for match in regex.finditer(r"(?w)\b", text)]
    segments = [text[a:b] for a, b in pairwise(edges)]
    assert cut(text) == [segment for segment in segments if any(character.isalnum() for character in segment)]


@given(st.text(alphabet="漢字仮名かなカ", min_size=1, max_size=20))
def test_joining_bigrams_gives_the_run_back(text: str) -> None:
    terms = bm25_terms(text)
    if len(text) == 1:
        assert terms == [fold(text)]
    else:
        assert all(len(term) == 2 for term in terms)
        assert terms[0] + "".join(term[1] for term in terms[1:]) == fold(text)


@given(TEXTS)
def test_terms_do_not_depend_on_case(text: str) -> None:
    assert bm25_terms(fold(text)) == bm25_terms(text)
