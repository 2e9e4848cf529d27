"""What is known about (query, passage) pairs besides the score: length, language, section, where the answer lies.

    read_facts(pairs, ...)     length, language and section: what trust is measured by (trust.py)
    answer_third(...)          in which third of the passage the answer lies

Used by the audit, and by scoring to look up how far the audit trusts a pair.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from retort.corpus.passages import passage_text
from retort.corpus.words import bm25_terms, count_words, fold, word_spans
from retort.teaching.trust import PairFacts

__all__ = ["PassageRecords", "answer_third", "answers_of", "read_facts", "term_weights"]

THIRDS = ("first third", "middle third", "last third")
WINDOW_SHARE = 0.2  # of the passage's words: what is looked for is where the query's words lie densest


class PassageRecords(Protocol):
    """Passages by id, as `corpus.lookup.Passages` has them."""

    def records(self, ids: Iterable[str], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return each passage as a dictionary of its columns."""


def read_facts(pairs: Sequence[tuple[str, str]], languages: Mapping[str, str], passages: PassageRecords) -> PairFacts:
    """Return the facts of (query id, passage id) pairs; `languages` are the queries', "" where unknown."""
    distinct = list(dict.fromkeys(passage for _, passage in pairs))
    records = dict(zip(distinct, passages.records(distinct, ["title", "text", "lang", "section"]), strict=True))
    words = {name: count_words(passage_text(record["title"], record["text"])) for name, record in records.items()}
    return PairFacts(
        words=[words[passage] for _, passage in pairs],
        language=[_language(languages.get(query, ""), records[passage]["lang"]) for query, passage in pairs],
        section=[records[passage]["section"] for _, passage in pairs],
    )


def _language(query: str, passage: str) -> str:
    """`en` where both agree or one is unknown, `de->en` where they differ."""
    return f"{query}->{passage}" if query and passage and query != passage else query or passage


def term_weights(texts: Iterable[str]) -> dict[str, float]:
    """Return the inverse document frequency of each term: words that are everywhere say nothing about where an answer is."""
    counts: Counter[str] = Counter()
    total = 0
    for text in texts:
        counts.update(set(bm25_terms(text)))
        total += 1
    return {term: math.log(1 + (total - count + 0.5) / (count + 0.5)) for term, count in counts.items()}


def answers_of(fields: Mapping[str, Any]) -> list[str]:
    """Return the answers that a query row brings along: its field `answer` or `answers`, a text or a list of texts."""
    given = fields.get("answers", fields.get("answer", []))
    return [text for text in ([given] if isinstance(given, str) else given) if isinstance(text, str) and text.strip()]


def answer_third(query: str, passage: str, weights: Mapping[str, float], answers: Sequence[str] = ()) -> str | None:
    """Return in which third of the passage the answer lies, by words; None where nothing tells.

    A given answer that occurs in the passage decides; else the stretch of a fifth of the passage (one word at least) whose
    words weigh most of the query's, each query word counted once.
    """
    spans = word_spans(passage)
    if len(spans) < 3:
        return None
    folded = fold(passage) if len(fold(passage)) == len(passage) else passage
    for answer in answers:
        at = folded.find(fold(answer) if folded is not passage else answer)
        if at >= 0:
            return _third(sum(end <= at for _, end in spans) / len(spans))
    asked = set(bm25_terms(query))
    words = [[term for term in bm25_terms(passage[start:end]) if term in asked] for start, end in spans]
    width = max(1, round(WINDOW_SHARE * len(spans)))
    best, where = 0.0, None
    for start in range(len(spans) - width + 1):
        found = {term for terms in words[start : start + width] for term in terms}
        weight = sum(weights.get(term, 0.0) for term in found)
        if weight > best + 1e-9:  # the first of equal ones
            best, where = weight, (start + width / 2) / len(spans)
    return None if where is None else _third(where)


def _third(share: float) -> str:
    return THIRDS[min(2, int(3 * share))]
