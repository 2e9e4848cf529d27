"""A small searchable world without weights: words are the dimensions, so every score can be worked out by hand.

It ships with the package so that users can try the endpoint and their own clients without an index: `make_engine()`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retort.corpus.words import bm25_terms
from retort.indexing.merge import Hits
from retort.serving.engine import EngineLimits, SearchEngine
from retort.serving.searcher import Searcher
from retort.serving.served import ReleaseIdentity, Served

__all__ = [
    "PASSAGES",
    "ExactIndex",
    "Table",
    "WordCounter",
    "WordEncoder",
    "make_engine",
    "make_searcher",
    "make_served",
]

PASSAGES: list[dict[str, Any]] = [
    {"passage_id": "p0", "doc_id": "files", "title": "Files", "text": "Open a file and read it line by line.", "lang": "en", "section": "io", "fields": {"year": 2001, "tags": ["file", "read"]}},
    {"passage_id": "p1", "doc_id": "files", "title": "Files", "text": "Close the file when you have read it.", "lang": "en", "section": "io", "fields": {"year": 2003, "tags": ["file"]}},
    {"passage_id": "p2", "doc_id": "sockets", "title": "Sockets", "text": "Open a socket and read from it.", "lang": "en", "section": "net", "fields": {"year": 2005, "draft": True}},
    {"passage_id": "p3", "doc_id": "dateien", "title": "Dateien", "text": "Eine Datei öffnen und lesen.", "lang": "de", "section": "io", "fields": {"year": 2007}},
    {"passage_id": "p4", "doc_id": "sort", "title": "", "text": "Sort a list of numbers.", "lang": "en", "section": "algorithms", "fields": {}},
]  # fmt: skip


class WordEncoder:
    """Vector = how often each word of the world occurs; not normalised. `shift` tells two encoders apart."""

    normalise = False

    def __init__(self, vocabulary: Sequence[str], shift: float = 0.0) -> None:
        """Take the words that count, in the order of the dimensions."""
        self._places = {word: place for place, word in enumerate(vocabulary)}
        self.dimension = len(vocabulary)
        self._shift = shift

    def encode(self, texts: Sequence[str], side: str) -> NDArray[np.float32]:
        """[n, dimension] float32; unknown words count nothing."""
        vectors = np.full((len(texts), self.dimension), self._shift, dtype=np.float32)
        for row, text in enumerate(texts):
            for word in bm25_terms(text):
                if word in self._places:
                    vectors[row, self._places[word]] += 1
        return vectors

    def tokenize(self, texts: Sequence[str], side: str) -> list[list[int]]:
        """One number per word."""
        return [[self._places.get(word, -1) for word in bm25_terms(text)] for text in texts]


class ExactIndex:
    """Every inner product, sorted by score and then passage id."""

    def __init__(self, ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Take passage ids and their vectors, row by row."""
        self._ids, self._vectors = list(ids), vectors

    def __len__(self) -> int:
        return len(self._ids)

    def search(self, vectors: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None) -> Hits:
        """Scores and rows [n, k], as ShardedIndex gives them."""
        among = range(len(self)) if allowed is None else np.flatnonzero(allowed).tolist()
        scores = vectors @ self._vectors.T
        rows = np.full((len(vectors), k), -1, dtype=np.int64)
        found = np.full((len(vectors), k), -np.inf, dtype=np.float32)
        for query, own in enumerate(scores):
            best = sorted(among, key=lambda at: (-own[at], self._ids[at]))[:k]
            rows[query, : len(best)], found[query, : len(best)] = best, own[best]
        return Hits(found, rows)


class Table:
    """The passages as `corpus.lookup.Passages` gives them."""

    def __init__(self, passages: Sequence[dict[str, Any]]) -> None:
        """Take the passages in corpus order."""
        self._passages = list(passages)

    def __len__(self) -> int:
        return len(self._passages)

    def records_at(self, rows: Sequence[int], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The passages of these rows."""
        return [dict(self._passages[row]) for row in rows]

    def ids_at(self, rows: Sequence[int]) -> list[str]:
        """Their ids."""
        return [self._passages[row]["passage_id"] for row in rows]

    def column(self, name: str) -> pa.Array:
        """One column; `fields` as JSON."""
        return pa.array([json.dumps(p["fields"]) if name == "fields" else p[name] for p in self._passages])


class WordCounter:
    """A teacher that counts the words of the query that a passage has."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """[n] float32."""
        return np.array([len(set(bm25_terms(query)) & set(bm25_terms(text))) for query, text in pairs], np.float32)


def make_searcher(
    passages: Sequence[dict[str, Any]] = PASSAGES,
    encoders: Sequence[str] = ("words",),
    index: type[ExactIndex] = ExactIndex,
    **options: Any,
) -> Searcher:
    """A searcher over these passages, with as many encoders as there are names; `options` are those of Searcher."""
    texts = [f"{passage['title']}\n{passage['text']}" for passage in passages]
    vocabulary = sorted({word for text in texts for word in bm25_terms(text)})
    made = {name: WordEncoder(vocabulary, shift=0.001 * number) for number, name in enumerate(encoders)}
    vectors = WordEncoder(vocabulary).encode(texts, "passage")
    return Searcher(
        made,
        encoders[0],
        index([passage["passage_id"] for passage in passages], vectors),
        Table(passages),
        **options,
    )


def make_served(searcher: Searcher | None = None, examples: Sequence[str] = (), version: int = 0) -> Served:
    """A release called `trial` over that searcher."""
    searcher = searcher or make_searcher()
    digests = {name: f"{name}-digest" for name in searcher.encoder_names}
    return Served(searcher, ReleaseIdentity("trial", "trial-index", "index-digest", digests, version), tuple(examples))


def make_engine(searcher: Searcher | None = None, examples: Sequence[str] = (), **limits: Any) -> SearchEngine:
    """An engine over that searcher; `limits` are those of EngineLimits."""
    return SearchEngine(make_served(searcher, examples), limits=EngineLimits(**limits))
