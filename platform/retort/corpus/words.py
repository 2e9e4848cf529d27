"""What a *word* is, in one place: BM25, the word-level maps and the splitting of documents all cut text here.

    word_spans(text)   where the words are, as character offsets
    bm25_terms(text)   the words as BM25 counts them: normalised, and bigrams where a script writes no spaces

Words are those of Unicode's default segmentation (UAX #29, rules WB4-WB13b), without what lies between them. Scripts
without spaces (Han, Kana, Thai, Lao, Khmer, Burmese, ...) are cut into single grapheme clusters, which need no
dictionary; BM25 joins neighbouring clusters into overlapping bigrams, as Lucene's CJK analyser does.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

import regex

# Letters of scripts that put no space between words. The named scripts come first because a few of their letters (U+3005)
# count as ordinary letters in UAX #29; the last part takes in every other script that needs a dictionary (Tai Tham, Tangut).
_UNSPACED = (
    r"[[[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]&&\p{Alphabetic}]"
    r"\p{WB=Katakana}[\p{Alphabetic}&&\p{WB=Other}]--[\p{WB=Extend}\p{WB=Numeric}]]"
)
_EXTEND = r"[\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]*+"  # WB4: marks belong to the letter before them
_LETTER = rf"(?:[[\p{{WB=ALetter}}\p{{WB=Hebrew_Letter}}]--{_UNSPACED}]{_EXTEND})"
_DIGIT = rf"(?:\p{{WB=Numeric}}{_EXTEND})"
_JOINER = rf"(?:\p{{WB=ExtendNumLet}}{_EXTEND})"
_IN_LETTERS = rf"(?:[\p{{WB=MidLetter}}\p{{WB=MidNumLet}}\p{{WB=Single_Quote}}]{_EXTEND})"  # WB6, WB7: can't
_IN_HEBREW = rf'(?:"{_EXTEND})'  # WB7b, WB7c: gershayim
_IN_DIGITS = rf"(?:[\p{{WB=MidNum}}\p{{WB=MidNumLet}}\p{{WB=Single_Quote}}]{_EXTEND})"  # WB11, WB12: 3.14
_HEBREW = rf"(?:\p{{WB=Hebrew_Letter}}{_EXTEND})"
_LETTERS = rf"(?:{_HEBREW}+(?:{_IN_HEBREW}{_HEBREW}+)+|{_LETTER})(?:{_IN_LETTERS}?{_LETTER})*"
_DIGITS = rf"{_DIGIT}(?:{_IN_DIGITS}?{_DIGIT})*"
_CORE = rf"(?:{_LETTERS}|{_DIGITS})+"
_WORD = regex.compile(
    rf"(?V1)(?P<cluster>(?={_UNSPACED})\X{_EXTEND})|{_JOINER}*{_CORE}(?:{_JOINER}+{_CORE})*{_JOINER}*|[\p{{Alphabetic}}\p{{N}}]{_EXTEND}"
)
# What joins the parts of a compound for UAX #29, and is cut for BM25: numpy.ndarray, max_length, std::vector.
_COMPOUND = re.compile(r"[_:]+|\.(?!\d)|(?<!\d)\.")
# The same rules for ASCII, where the standard library's engine is several times faster.
_ASCII_WORD = re.compile(
    r"_*[A-Za-z0-9]+(?:(?:_+|(?<=[A-Za-z])[:.'](?=[A-Za-z])|(?<=[0-9])[.,;'](?=[0-9]))[A-Za-z0-9]+)*_*"
)


def word_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) character offsets of the words of `text`, in order, disjoint, each non-empty.

    Spaces and punctuation belong to no word. `text[start:end]` is the word.
    """
    pattern = _ASCII_WORD if text.isascii() else _WORD
    return [match.span() for match in pattern.finditer(text)]


def count_words(text: str) -> int:
    """How many words `word_spans` finds."""
    return len((_ASCII_WORD if text.isascii() else _WORD).findall(text))


def bm25_terms(text: str) -> list[str]:
    """The terms that BM25 indexes and searches: NFKC, case-folded words; unspaced scripts as overlapping bigrams.

    A cluster that stands alone is its own term, and compounds (`numpy.ndarray`, `max_length`) count as their parts: on
    Debian's dev queries that gives 0.649 instead of 0.642 MRR@10. Texts that differ only in case, width or composition
    give the same terms.
    """
    folded = fold(text)
    terms: list[str] = []
    if folded.isascii():
        for word in _ASCII_WORD.findall(folded):
            _add_word(word, terms)
        return terms
    run: list[str] = []  # neighbouring clusters, no space or punctuation between them
    run_end = -1
    for match in _WORD.finditer(folded):
        if match["cluster"] is None:
            _flush(run, terms)
            _add_word(match[0], terms)
            continue
        if match.start() != run_end:
            _flush(run, terms)
        run.append(match[0])
        run_end = match.end()
    _flush(run, terms)
    return terms


def fold(text: str) -> str:
    """`text` in NFKC and case-folded, for comparing words regardless of case, width, composition and the kind of apostrophe."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    # Case folding turns the Turkish capital I with a dot into i and a combining dot, which no lower-case text contains.
    return folded.replace("i\u0307", "i").replace("\u2019", "'")


def _add_word(word: str, terms: list[str]) -> None:
    """Append a word, or the parts of a compound."""
    if word.isalnum():
        terms.append(word)
    else:
        terms.extend(part for part in _COMPOUND.split(word) if part)


def _flush(run: list[str], terms: list[str]) -> None:
    """Move a finished run into `terms`: as bigrams, or as it is when it is a single cluster."""
    if len(run) == 1:
        terms.append(run[0])
    else:
        terms.extend(first + second for first, second in pairwise(run))
    run.clear()
