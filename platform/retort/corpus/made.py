"""Queries made from passages, for corpora that come without training queries.

    candidate_query(...)   a document's title or heading, else its first sentence, if it can stand as a query
    Sampler                keeps a bounded, deterministic sample of them
    leave_out(...)         the document's passages without the text that became a query

What becomes a query is left out of its passages, or finding them would be a matter of comparing strings. Titles leave all
passages of their document, a first sentence leaves the first one. What was left out stays in `fields.left_out`, for display.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

from retort.corpus.labels import stable_hash
from retort.corpus.passages import sentence_spans
from retort.corpus.readers.rows import Document
from retort.corpus.words import bm25_terms, count_words

MIN_QUERY_WORDS = 2
MAX_QUERY_WORDS = 40
MIN_REST_WORDS = 8
"""A passage from which a query was taken must still say something."""
MAX_TITLE_PASSAGES = 4
"""The title of a longer document says too little about each of its passages; their first sentence is taken instead."""


class Candidate(NamedTuple):
    """A query that could be made. `passages` is how many passages its document has."""

    order: int
    position: int
    document_id: str
    doc_id: str
    text: str
    origin: str
    lang: str
    passages: int


def candidate_query(document: Document, pieces: Sequence[str]) -> tuple[str, str] | None:
    """(text, origin) of the query that this document could give, or None. `pieces` are the texts of its passages."""
    title = " ".join(document.title.split())
    if title and len(pieces) <= MAX_TITLE_PASSAGES and _can_be_query(title) and not _begins_with(pieces[0], title):
        if _has_words(pieces[0], MIN_REST_WORDS):
            return title, "heading" if document.title_is_heading else "title"
        return None
    spans = sentence_spans(pieces[0][:4000])
    if len(spans) < 2:
        return None
    sentence, rest = pieces[0][: spans[0][1]], pieces[0][spans[0][1] :]
    if not _can_be_query(sentence) or not _has_words(rest, MIN_REST_WORDS) or (title and _begins_with(sentence, title)):
        return None
    return sentence, "sentence"


def leave_out(title: str, pieces: list[str], query: str, origin: str) -> tuple[str, list[str]]:
    """(title, texts of the passages) of a document once the query's text is taken out of them."""
    if origin == "sentence":
        assert pieces[0].startswith(query), query
        return title, [pieces[0][len(query) :].strip(), *pieces[1:]]
    return "", pieces


class Sampler:
    """The `limit` candidates with the smallest hashes, less those whose text several documents share."""

    def __init__(self, limit: int, seed: int) -> None:
        self._limit = limit
        self._seed = seed
        self._heap: list[tuple[int, int, Candidate]] = []  # largest hash on top
        self._texts: set[int] = set()
        self._shared: set[int] = set()
        self._offered = 0

    def offer(self, document: Document, text: str, origin: str, passages: int) -> None:
        """Consider one candidate; at most a quarter more than the limit are kept, in case some fall as shared."""
        self._offered += 1
        fingerprint = _fingerprint(text)
        if fingerprint in self._texts:
            self._shared.add(fingerprint)
            return
        self._texts.add(fingerprint)
        order = stable_hash(self._seed, "made", document.document_id)
        candidate = Candidate(
            order, self._offered, document.document_id, document.doc_id, text, origin, document.lang, passages
        )
        if len(self._heap) < self._limit + self._limit // 4 + 16:
            heapq.heappush(self._heap, (-order, self._offered, candidate))
        elif order < -self._heap[0][0]:
            heapq.heapreplace(self._heap, (-order, self._offered, candidate))

    def chosen(self) -> list[Candidate]:
        """The sample, in the order of the corpus."""
        alone = (item[2] for item in self._heap if _fingerprint(item[2].text) not in self._shared)
        return sorted(sorted(alone)[: self._limit], key=lambda candidate: candidate.position)


def _fingerprint(text: str) -> int:
    return stable_hash(0, " ".join(bm25_terms(text)))


def _can_be_query(text: str) -> bool:
    return len(text) <= 400 and MIN_QUERY_WORDS <= count_words(text) <= MAX_QUERY_WORDS


def _begins_with(text: str, title: str) -> bool:
    """Whether the text says the title again at once: then it would not be left out."""
    terms = bm25_terms(title)
    return bm25_terms(text[: 2 * len(title) + 20])[: len(terms)] == terms


def _has_words(text: str, least: int) -> bool:
    return count_words(text[: 40 * least]) >= least
