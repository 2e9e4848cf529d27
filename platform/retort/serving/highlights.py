"""Which words of a hit to mark, and the stretch of its text to show.

A word matches a query's word when they are equal after folding (NFKC, case), or share a beginning of at least four
letters and differ by at most three at the end (index, indexes, indexing). Short words that many passages of the corpus
contain say nothing ("the", "de", "is") and are left out. No stop lists, no stemmers: it works alike in every language.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from retort.corpus.words import fold, word_spans

Span = tuple[int, int]

SNIPPET_CHARS = 320
_WORD_REACH = 30
_MIN_STEM = 4
_MAX_ENDING = 3
_MAX_TERMS = 64
_COMMON_SHARE = 0.15
_COMMON_CHARS = 3
_FEWEST_TEXTS = 20


def common_words(texts: Sequence[str]) -> frozenset[str]:
    """Short words that more than 15 % of the texts contain: the function words of the corpus's languages.

    A handful of texts cannot tell, and gives none.
    """
    if len(texts) < _FEWEST_TEXTS:
        return frozenset()
    counts: dict[str, int] = {}
    for text in texts:
        for word in {fold(text[start:end]) for start, end in word_spans(text) if end - start <= _COMMON_CHARS}:
            counts[word] = counts.get(word, 0) + 1
    return frozenset(word for word, count in counts.items() if count > _COMMON_SHARE * len(texts))


@dataclass(frozen=True)
class Window:
    """A stretch [start, end) of a text, with the matching words inside it (offsets within the window)."""

    start: int
    end: int
    words: list[Span]


class Highlighter:
    """The matching words of one query."""

    def __init__(self, query: str, common: frozenset[str] = frozenset()) -> None:
        """Words of `common` do not count, unless the query has no others; nor do those after the first 64 that are left."""
        terms = dict.fromkeys(fold(query[start:end]) for start, end in word_spans(query))
        # Every hit is searched for each of them, and a pasted page would have thousands.
        self.terms = set(islice((term for term in terms if term not in common), _MAX_TERMS)) or set(
            islice(terms, _MAX_TERMS)
        )
        self._stems: dict[str, list[str]] = {}
        for term in self.terms:
            if len(term) >= _MIN_STEM and term.isalpha():
                self._stems.setdefault(term[:_MIN_STEM], []).append(term)
        unstemmed = (term for term in self.terms if term[:_MIN_STEM] not in self._stems)
        self._judged: dict[str, bool] = {}
        self._beginnings = [part for part in (*self._stems, *unstemmed) if part.isascii()]

    def matches(self, text: str) -> list[Span]:
        """Spans of the words of `text` that match, in order."""
        if not text.isascii():
            return [(start, end) for start, end in word_spans(text) if self._is_match(fold(text[start:end]))]
        # Most words match nothing, and cutting a text into words costs more than the search that found it: look only
        # where a matching word could begin. No word holds a space, so what lies between two is cut as in the whole text.
        folded = fold(text)
        found: dict[int, list[Span]] = {}
        for beginning in self._beginnings:
            at = folded.find(beginning)
            while at >= 0:
                if at and folded[at - 1].isalnum():  # inside a word
                    at = folded.find(beginning, at + 1)
                    continue
                start = folded.rfind(" ", 0, at) + 1
                end = folded.find(" ", at)
                end = len(text) if end < 0 else end
                if start not in found:
                    found[start] = self._matches_near(folded, start, end)
                at = folded.find(beginning, end)
        return [span for start in sorted(found) for span in found[start]]

    def _matches_near(self, folded: str, start: int, end: int) -> list[Span]:
        """As `matches`, in what lies between two spaces of a folded ASCII text."""
        word = folded[start:end].rstrip(".,:;)")
        if word.isalnum():  # by far the most are one plain word
            return [(start, start + len(word))] if self._is_match(word) else []
        near = folded[start:end]
        return [(start + a, start + b) for a, b in word_spans(near) if self._is_match(near[a:b])]

    def _is_match(self, word: str) -> bool:
        """Whether a folded word matches; asked again and again about the few words that hits have in common."""
        found = self._judged.get(word)
        if found is None:
            found = self._judged[word] = word in self.terms or (
                len(word) >= _MIN_STEM
                and word.isalpha()
                and any(_same_stem(word, term) for term in self._stems.get(word[:_MIN_STEM], ()))
            )
        return found


def _same_stem(first: str, second: str) -> bool:
    shared = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        shared += 1
    return (
        shared >= _MIN_STEM
        and max(len(first), len(second)) - shared <= _MAX_ENDING
        and 2 * shared >= max(len(first), len(second))
    )


def best_window(text: str, matches: Sequence[Span], size: int = SNIPPET_CHARS) -> Window:
    """The stretch of about `size` characters that holds the most matching characters, cut between words."""
    if len(text) <= size:
        return Window(0, len(text), list(matches))
    start = _densest(matches, size) if matches else 0
    start = max(0, min(start - size // 6, len(text) - size))  # a little context before the first match
    reach = min(_WORD_REACH, size // 4)  # so that the two cuts of a short window cannot pass each other
    start = _word_start(text, start, reach)
    end = _word_end(text, min(len(text), start + size), reach)
    return Window(start, end, [(a - start, b - start) for a, b in matches if start <= a and b <= end])


def _densest(matches: Sequence[Span], size: int) -> int:
    """Where a window that begins at a match covers the most matching characters; the earliest of equals."""
    best, best_covered, last, covered = matches[0][0], -1, 0, 0
    for first, (begin, _) in enumerate(matches):
        while last < len(matches) and matches[last][1] <= begin + size:
            covered += matches[last][1] - matches[last][0]
            last += 1
        if covered > best_covered:
            best, best_covered = begin, covered
        if last > first:
            covered -= matches[first][1] - matches[first][0]
        else:
            last = first + 1
    return best


def _word_start(text: str, position: int, reach: int) -> int:
    """The next beginning of a word after a space, if there is one near; scripts without spaces are cut where they are."""
    if position == 0:
        return 0
    space = next((at for at in range(position, min(position + reach, len(text))) if text[at].isspace()), None)
    return position if space is None else space + 1


def _word_end(text: str, position: int, reach: int) -> int:
    if position >= len(text):
        return len(text)
    space = next((at for at in range(position, max(position - reach, 0), -1) if text[at].isspace()), None)
    return position if space is None else space
