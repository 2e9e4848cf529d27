"""Queries to hits under one release: encode, search, filter, group, fetch texts, mark words. No Ray, no HTTP, no threads.

    Searcher(encoders, index, corpus, stamp).search([SearchQuery...]) -> [SearchResult...]

Queries of different requests go through together: one encoder call per encoder and one index search per depth. Filters
and grouping look deeper into the ranking until enough passages pass (or the index ends), so that a page is full whenever
the index can fill it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from retort.errors import NotFoundError
from retort.serving.corpus_view import CorpusView, PassageTable
from retort.serving.highlights import Highlighter, best_window
from retort.serving.models import FilterValue, Hit, Snippet

_DEEPER = 4
ScoreKind = Literal["cosine", "inner_product", "reranked", "fused"]


Side = Literal["query", "passage"]


class QueryEncoder(Protocol):
    """What search needs of an encoder; models.DualEncoder is one."""

    @property
    def dimension(self) -> int:
        """Length of its vectors."""

    @property
    def normalise(self) -> bool:
        """Whether they have length 1, so that scores are cosines."""

    def encode(self, texts: Sequence[str], side: Side) -> NDArray[np.float32]:
        """[n, dimension] float32, in the order of `texts`."""

    def tokenize(self, texts: Sequence[str], side: Side) -> list[list[int]]:
        """Token ids of each text."""


class Hits(Protocol):
    """What an index finds; indexing.merge.Hits is one."""

    @property
    def scores(self) -> NDArray[np.float32]:
        """Scores [n, k]."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """Corpus rows [n, k], -1 where there are no more."""


class VectorIndex(Protocol):
    """What search needs of an index; indexing.search.ShardedIndex is one."""

    def __len__(self) -> int:
        """Passages in it."""

    def search(self, vectors: NDArray[np.float32], k: int) -> Hits:
        """Scores and corpus rows [n, k], best first, ties by passage id; row -1 where there are no more."""


@dataclass(frozen=True)
class SearchQuery:
    """One query with its settings."""

    text: str
    k: int = 10
    offset: int = 0
    encoder: str | None = None
    filters: Mapping[str, FilterValue] | None = None
    group_by: Literal["doc_id"] | None = None
    highlight: bool = True

    @property
    def needed(self) -> int:
        """Hits to find before the page can be cut out."""
        return self.offset + self.k


@dataclass(frozen=True)
class SearchResult:
    """The hits of one query, the encoder that read it, and the milliseconds of its batch's stages."""

    hits: list[Hit]
    encoder: str
    stages_ms: dict[str, float] = field(default_factory=dict)


@dataclass
class _Ranking:
    """Passages of one query that passed so far, best first: rows of the corpus, int64 [found], and their scores."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


class Searcher:
    """Answers queries over one index with one or more query encoders."""

    def __init__(
        self,
        encoders: Mapping[str, QueryEncoder],
        default_encoder: str,
        index: VectorIndex,
        corpus: PassageTable | CorpusView,
    ) -> None:
        assert default_encoder in encoders, (default_encoder, list(encoders))
        self._encoders = dict(encoders)
        self.default_encoder = default_encoder
        self._index = index
        view = corpus if isinstance(corpus, CorpusView) else CorpusView(corpus)
        self._corpus, self._fields, self._common = view.passages, view.fields, view.common
        self.score_kind: ScoreKind = "cosine" if encoders[default_encoder].normalise else "inner_product"

    def __len__(self) -> int:
        return len(self._index)

    @property
    def encoder_names(self) -> list[str]:
        """Names that a request may ask for."""
        return list(self._encoders)

    def encoder(self, name: str | None) -> tuple[str, QueryEncoder]:
        """The encoder of this name, or the default one; NotFoundError lists the names there are."""
        chosen = name or self.default_encoder
        if chosen not in self._encoders:
            raise NotFoundError(
                f"encoder: this release has no query encoder {chosen!r}. It has: {', '.join(self._encoders)}."
            )
        return chosen, self._encoders[chosen]

    def records_at(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Passages of these corpus rows."""
        return self._corpus.records_at(rows)

    def embed(self, texts: Sequence[str], encoder: str | None, side: Side) -> NDArray[np.float32]:
        """Vectors [n, dimension] float32, as the batch job makes them."""
        return self.encoder(encoder)[1].encode(texts, side)

    def count_tokens(self, texts: Sequence[str], encoder: str | None, side: Side) -> int:
        """Tokens that the encoder reads for these texts."""
        return sum(map(len, self.encoder(encoder)[1].tokenize(texts, side)))

    def warm_up(self) -> None:
        """One query through every stage, so that the first user does not pay for lazy loading."""
        for name in self._encoders:
            self.search([SearchQuery("warm up", k=1, encoder=name, group_by="doc_id")])

    def search(self, queries: Sequence[SearchQuery]) -> list[SearchResult]:
        """The hits of each query, in order. Raises for the whole batch; the caller retries one by one to find whose fault it was."""
        clock = _Clock()
        names, vectors = self._encode(queries)
        clock.lap("encode")
        rankings = self._rank(queries, vectors)
        clock.lap("search")
        hits = self._fetch(queries, rankings)
        clock.lap("fetch")
        return [SearchResult(found, name, clock.laps_ms) for found, name in zip(hits, names, strict=True)]

    def _encode(self, queries: Sequence[SearchQuery]) -> tuple[list[str], NDArray[np.float32]]:
        names = [self.encoder(query.encoder)[0] for query in queries]
        vectors: NDArray[np.float32] | None = None
        for name in dict.fromkeys(names):
            own = [number for number, chosen in enumerate(names) if chosen == name]
            encoded = self._encoders[name].encode([queries[number].text for number in own], "query")  # [own, dim]
            if vectors is None:
                vectors = np.empty((len(queries), encoded.shape[1]), dtype=np.float32)
            vectors[own] = encoded
        assert vectors is not None, "search() without queries"
        return names, vectors

    def _rank(self, queries: Sequence[SearchQuery], vectors: NDArray[np.float32]) -> list[_Ranking]:
        """Search all queries to their depth together; those whose filter or grouping leaves too few go deeper."""
        masks = [self._fields.mask(query.filters) if query.filters else None for query in queries]
        depths = [self._first_depth(query, mask) for query, mask in zip(queries, masks, strict=True)]
        rankings = [_Ranking(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        open_ = [number for number in range(len(queries)) if depths[number] > 0]
        while open_:
            found = self._index.search(vectors[open_], max(depths[number] for number in open_))
            remaining = []
            for row, number in enumerate(open_):
                # Cut at this query's own depth: what else is in the batch must not change what it finds.
                own = slice(0, depths[number])
                rankings[number] = self._select(
                    queries[number], masks[number], found.rows[row, own], found.scores[row, own]
                )
                if len(rankings[number].rows) < queries[number].needed and depths[number] < len(self._index):
                    depths[number] = min(len(self._index), depths[number] * _DEEPER)
                    remaining.append(number)
            open_ = remaining
        return rankings

    def _first_depth(self, query: SearchQuery, mask: NDArray[np.bool_] | None) -> int:
        depth = float(query.needed)
        if mask is not None:
            passing = int(mask.sum())
            if passing == 0:
                return 0
            # As if what passes were spread evenly over the ranking, and half as much again.
            depth = 1.5 * depth * len(mask) / passing
        if query.group_by:
            depth *= 2
        return int(min(len(self._index), depth))

    def _select(
        self, query: SearchQuery, mask: NDArray[np.bool_] | None, rows: NDArray[np.int64], scores: NDArray[np.float32]
    ) -> _Ranking:
        """Keep what passes the filter, the first of each group, and no more than the page needs."""
        kept = np.flatnonzero(rows >= 0)
        if mask is not None:
            kept = kept[mask[rows[kept]]]
        if query.group_by:
            _, first = np.unique(self._fields.codes(query.group_by)[rows[kept]], return_index=True)
            kept = kept[np.sort(first)]
        kept = kept[: query.needed]
        return _Ranking(rows[kept], scores[kept])

    def _fetch(self, queries: Sequence[SearchQuery], rankings: Sequence[_Ranking]) -> list[list[Hit]]:
        """Texts of all pages in one lookup, then hits."""
        wanted = [ranking.rows[query.offset :] for query, ranking in zip(queries, rankings, strict=True)]
        records = iter(self._corpus.records_at(np.concatenate(wanted).tolist()))
        result = []
        for query, ranking, rows in zip(queries, rankings, wanted, strict=True):
            found = [next(records) for _ in rows]
            result.append(
                make_hits(query.text, found, ranking.scores[query.offset :].tolist(), query.highlight, self._common)
            )
        return result


def make_hits(
    query: str, records: Sequence[Mapping[str, Any]], scores: Sequence[float], highlight: bool, common: frozenset[str]
) -> list[Hit]:
    """Corpus records as hits, with the query's words marked (but for those in `common`)."""
    marker = Highlighter(query, common) if highlight else None
    return [_hit(record, score, marker) for record, score in zip(records, scores, strict=True)]


def _hit(record: Mapping[str, Any], score: float, marker: Highlighter | None) -> Hit:
    text, snippet, title_words = record["text"], None, []
    if marker is not None:
        window = best_window(text, marker.matches(text))
        snippet = Snippet.model_construct(
            text=text[window.start : window.end],
            start=window.start,
            cut_before=window.start > 0,
            cut_after=window.end < len(text),
            words=window.words,
        )
        title_words = marker.matches(record["title"])
    values: dict[str, Any] = {
        name: record[name] for name in ("passage_id", "text", "title", "doc_id", "lang", "section")
    }
    # Built from our own columns, so not validated again: that would cost more than the search of a small index.
    return Hit.model_construct(**values, score=score, fields=record["fields"], snippet=snippet, title_words=title_words)


class _Clock:
    def __init__(self) -> None:
        self.laps_ms: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps_ms[name] = (now - self._last) * 1000
        self._last = now
