"""The text of a passage, and how a long document becomes passages.

passage_text(title, text)     THE text that encoders, teachers and BM25 see; nothing else may join title and text
content_hash(title, text)     its fingerprint: what re-indexing compares
split_document(text, ...)     a document's text in pieces of a word budget; split_spans gives them as offsets
sentence_spans(text)          sentences, by punctuation and line ends; no dictionary, no model
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise

import regex

from retort.corpus.words import word_spans

DEFAULT_MAX_WORDS = 180
"""Words per passage: about 256 tokens of English, the length that MiniLM-class encoders were trained on."""

_PARAGRAPH_END = regex.compile(r"\n[ \t]*\n")
# A line end counts: lists and headings have no full stop. A full stop counts only before a capital, a digit or a bracket,
# and not after a single letter ("J. Smith") or "e.g."; the ideographic ones need no space after them.
_SENTENCE_END = regex.compile(
    r"(?<=[.!?…؟।។][\"'”’)\]]*)(?<!\b\p{L}\.)\s+(?=[\p{Lu}\p{Lo}\p{N}\"'“‘(\[])|(?<=[。！？｡][」』”’）)]*)\s*(?=\S)|\s*\n\s*"
)
_CUT_COST = {"paragraph": 0.0, "sentence": 0.05, "word": 0.5}
"""What a cut costs next to unevenness (0 for a full piece, 1 for an empty one): a sentence is cut only when it is too long."""


def passage_text(title: str, text: str) -> str:
    """The title, a newline and the text; only the text where there is no title."""
    return f"{title}\n{text}" if title and text else title or text


def content_hash(title: str, text: str) -> str:
    """16 hexadecimal characters of SHA-256 over `passage_text`; UnicodeEncodeError for a lone surrogate."""
    return hashlib.sha256(passage_text(title, text).encode()).hexdigest()[:16]


def split_document(text: str, max_words: int = DEFAULT_MAX_WORDS, overlap: int = 0) -> list[str]:
    """`text` in pieces of at most `max_words` words (`words.word_spans`), in order; a text that fits stays whole.

    Cuts fall between paragraphs where they can, else between sentences, else between words, and pieces come out about
    equally long. Each piece but the first begins with the last sentences of the one before it, up to `overlap` words, which
    count towards its budget. Without overlap no word is lost or doubled. A text without words gives [].
    """
    return [text[start:end] for start, end in split_spans(text, max_words, overlap)]


def split_spans(text: str, max_words: int = DEFAULT_MAX_WORDS, overlap: int = 0) -> list[tuple[int, int]]:
    """As `split_document`, as (start, end) offsets into `text`; disjoint when `overlap` is 0."""
    if max_words < 1 or not 0 <= overlap < max_words:
        raise ValueError(
            f"max_words is {max_words} and overlap {overlap}; expected max_words >= 1 and 0 <= overlap < max_words"
        )
    words = word_spans(text)
    if not words:
        return []
    if len(words) <= max_words:
        return [_trim(text, 0, len(text))]
    atoms = _atoms(text, words, max_words - overlap)
    cuts = _best_cuts(atoms, max_words, overlap)
    pieces = []
    for number, (first, last) in enumerate(pairwise(cuts)):
        start = atoms[first].start
        if number and overlap:
            start = _overlap_start(atoms, words, cuts[number - 1], first, overlap)
        end = atoms[last].start if last < len(atoms) else len(text)
        pieces.append(_trim(text, start, end))
    return pieces


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of the sentences of `text`, without the space between them; none is empty."""
    starts = [0, *(match.end() for match in _SENTENCE_END.finditer(text))]
    spans = (_trim(text, start, end) for start, end in zip(starts, [*starts[1:], len(text)], strict=True))
    return [(start, end) for start, end in spans if start < end]


@dataclass(frozen=True, slots=True)
class _Atom:
    """A stretch of text that is not cut further, reaching to the next atom's start. `words` are numbers into the words."""

    start: int
    first_word: int
    end_word: int
    boundary: str  # what kind of end lies before it


def _atoms(text: str, words: list[tuple[int, int]], budget: int) -> list[_Atom]:
    """Sentences, and of longer ones stretches of at most `budget` words. A sentence without a word goes with the one before."""
    atoms: list[_Atom] = []
    word = previous_end = 0
    for start, end in sentence_spans(text):
        end_word = word
        while end_word < len(words) and words[end_word][0] < end:
            end_word += 1
        if end_word > word:
            stretches = -(-(end_word - word) // budget)
            edges = [word + number * (end_word - word) // stretches for number in range(stretches + 1)]
            kind = "paragraph" if _PARAGRAPH_END.search(text, previous_end, start) else "sentence"
            atoms.append(_Atom(start if atoms else 0, edges[0], edges[1], kind))
            atoms.extend(_Atom(words[a][0], a, b, "word") for a, b in pairwise(edges[1:]))
            word = end_word
        previous_end = end
    return atoms


def _best_cuts(atoms: list[_Atom], max_words: int, overlap: int) -> list[int]:
    """Atom numbers at which pieces begin, and the number of atoms: the cheapest division by dynamic programming.

    A piece costs the square of its unused share of the budget (so that pieces are few and even) and the kind of its cut.
    """
    best = [0.0] + [float("inf")] * len(atoms)
    previous = [0] * (len(atoms) + 1)
    for end in range(1, len(atoms) + 1):
        for first in range(end - 1, -1, -1):
            count = atoms[end - 1].end_word - atoms[first].first_word
            budget = max_words - overlap if first else max_words
            if count > budget:
                if count > max_words:
                    break
                continue
            cost = best[first] + (1 - count / budget) ** 2 + (_CUT_COST[atoms[first].boundary] if first else 0.0)
            if cost < best[end]:
                best[end], previous[end] = cost, first
    cuts = [len(atoms)]
    while cuts[-1]:
        cuts.append(previous[cuts[-1]])
    return cuts[::-1]


def _overlap_start(atoms: list[_Atom], words: list[tuple[int, int]], previous: int, first: int, overlap: int) -> int:
    """Where a piece that begins with atom `first` begins with its overlap: at a sentence if one fits, else at a word.

    Always after the start of the previous piece, whose own first atom is `previous`: no piece lies within the next one.
    """
    start = first
    while start - 1 > previous and atoms[first].first_word - atoms[start - 1].first_word <= overlap:
        start -= 1
    if start < first:
        return atoms[start].start
    word = max(atoms[first].first_word - overlap, atoms[previous].first_word + 1)
    return words[word][0] if word < atoms[first].first_word else atoms[first].start


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end
