"""Queries to hits under one release: encode, search, filter, group, fetch texts, mark words. No Ray, no HTTP, no threads.

    Searcher(encoders, default_encoder, index, corpus).search([SearchQuery...]) -> [SearchResult...]

Queries of different requests go through together: one encoder call per encoder and one index search per depth. Filters
are answered inside the index; grouping looks deeper into the ranking until there are enough groups (or the index ends), so
that a page is full whenever the index can fill it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from retort.errors import NotFoundError
from retort.serving.caching import VectorCache
from retort.serving.corpus_view import CorpusView, PassageTable
from retort.serving.fusing import WordIndex, fuse, fused_depth
from retort.serving.hits import SHOWN, make_hits
from retort.serving.models import FilterValue, Hit
from retort.serving.needs import Leaky, QueryEncoder, Side, VectorIndex
from retort.serving.reranking import Reranker, reranked

_DEEPER = 4
ScoreKind = Literal["cosine", "inner_product", "reranked", "fused"]


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
    hybrid: bool = False
    """Fuse with BM25."""
    rerank: int | None = None
    """Let the teacher order this many first hits."""

    @property
    def needed(self) -> int:
        """Hits to find before the page can be cut out."""
        return self.offset + self.k

    @property
    def reach(self) -> int:
        """Hits that the ranking before the teacher must have."""
        return max(self.needed, self.rerank or 0)


@dataclass(frozen=True)
class SearchResult:
    """The hits of one query, the encoder that read it, and the milliseconds of its batch's stages."""

    hits: list[Hit]
    encoder: str
    stages_ms: dict[str, float] = field(default_factory=dict)
    missing_shards: tuple[int, ...] = ()
    """Shards that did not answer in time, so that better hits may be missing."""


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
        *,
        words: WordIndex | None = None,
        reranker: Reranker | None = None,
        shown: NDArray[np.bool_] | None = None,
        kept_vectors: int = 0,
    ) -> None:
        assert default_encoder in encoders, (default_encoder, list(encoders))
        self._encoders = dict(encoders)
        self.default_encoder = default_encoder
        self._index = index
        self._leaky = index if isinstance(index, Leaky) else None  # asked once: of a protocol it is slow
        view = corpus if isinstance(corpus, CorpusView) else CorpusView(corpus)
        self._view = view  # whoever shares it among releases holds it weakly
        self._corpus, self._fields, self._common = view.passages, view.fields, view.common
        self.words, self.reranker = words, reranker
        self._shown = shown
        self._vectors = VectorCache(kept_vectors)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def in_process(self) -> bool:
        """Whether a search is all work of this process, and waits for no other."""
        return self._leaky is None

    def score_kind(self, query: SearchQuery) -> ScoreKind:
        """What the scores of its hits are."""
        if query.rerank is not None:
            return "reranked"
        if query.hybrid:
            return "fused"
        return "cosine" if self.encoder(query.encoder)[1].normalise else "inner_product"

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

    def check_filters(self, filters: Mapping[str, FilterValue]) -> None:
        """ConfigError for a field that the corpus does not have, as far as its fields have been read."""
        self._fields.check_names(filters)

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
        if self.words is not None or self.reranker is not None:
            rerank = None if self.reranker is None else 1
            self.search([SearchQuery("warm up", k=1, hybrid=self.words is not None, rerank=rerank)])

    def search(self, queries: Sequence[SearchQuery]) -> list[SearchResult]:
        """The hits of each query, in order. Raises for the whole batch; the caller retries one by one to find whose fault it was."""
        clock = _Clock()
        names, vectors = self._encode(queries)
        clock.lap("encode")
        try:
            rankings = self._rank([_deepened(query) for query in queries], vectors)
        finally:  # also where it failed: the next search's are its own
            missing = tuple(self._leaky.take_missing()) if self._leaky is not None else ()
        clock.lap("search")
        if any(query.hybrid for query in queries):
            rankings = [self._fuse(query, ranking) for query, ranking in zip(queries, rankings, strict=True)]
            clock.lap("fuse")
        if any(query.rerank is not None for query in queries):
            rankings = self._rerank(queries, rankings)
            clock.lap("rerank")
        hits = self._fetch(queries, rankings)
        clock.lap("fetch")
        return [SearchResult(found, name, clock.laps_ms, missing) for found, name in zip(hits, names, strict=True)]

    def _encode(self, queries: Sequence[SearchQuery]) -> tuple[list[str], NDArray[np.float32]]:
        names = [self.encoder(query.encoder)[0] for query in queries]
        vectors: NDArray[np.float32] | None = None
        for name in dict.fromkeys(names):
            own = [number for number, chosen in enumerate(names) if chosen == name]
            texts = [queries[number].text for number in own]
            encoded = self._vectors.encode(name, texts, partial(self.embed, encoder=name, side="query"))  # [own, dim]
            if vectors is None:
                vectors = np.empty((len(queries), encoded.shape[1]), dtype=np.float32)
            vectors[own] = encoded
        assert vectors is not None, "search() without queries"
        return names, vectors

    def _rank(self, queries: Sequence[SearchQuery], vectors: NDArray[np.float32]) -> list[_Ranking]:
        """Search the queries of one filter together, among what it lets pass; those whose grouping leaves too few go deeper."""
        rankings = [_Ranking(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        filtered: dict[str, list[int]] = {}
        for number, query in enumerate(queries):
            filtered.setdefault(repr(sorted((query.filters or {}).items())), []).append(number)
        for open_ in filtered.values():
            filters = queries[open_[0]].filters
            allowed = self._fields.mask(filters) if filters else None
            most = len(self._index) if allowed is None else int(np.count_nonzero(allowed))
            depths = {number: min(most, self._first_depth(queries[number])) for number in open_}
            while open_ and most:
                # Each depth by itself: an approximate index that is asked for more finds others among the first, too, and
                # what else is in the batch must not change what a query finds.
                depth = depths[open_[0]]
                together = [number for number in open_ if depths[number] == depth]
                open_ = [number for number in open_ if depths[number] != depth]
                found = self._index.search(vectors[together], depth, allowed)
                for row, number in enumerate(together):
                    rankings[number] = self._select(queries[number], found.rows[row], found.scores[row])
                    if len(rankings[number].rows) < queries[number].needed and depth < most:
                        depths[number] = min(most, depth * _DEEPER)
                        open_.append(number)
        return rankings

    def _first_depth(self, query: SearchQuery) -> int:
        return query.needed * (2 if query.group_by else 1)

    def _select(self, query: SearchQuery, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> _Ranking:
        """Keep the first of each group, and no more than the page needs."""
        kept = np.flatnonzero(rows >= 0)
        if query.group_by:
            _, first = np.unique(self._fields.codes(query.group_by)[rows[kept]], return_index=True)
            kept = kept[np.sort(first)]
        kept = kept[: query.needed]
        return _Ranking(rows[kept], scores[kept])

    def _fuse(self, query: SearchQuery, ranking: _Ranking) -> _Ranking:
        """The query's dense ranking with BM25's, grouped and cut to what it needs; as it was without `hybrid`."""
        if not query.hybrid:
            return ranking
        assert self.words is not None, "the engine refuses hybrid without BM25"
        allowed = self._fields.mask(query.filters) if query.filters else None
        if self._shown is not None:
            allowed = self._shown if allowed is None else allowed & self._shown
        words = self.words.rows(query.text, fused_depth(query.reach), allowed)
        rows, scores = fuse(ranking.rows, words, self._corpus.ids_at)
        return self._select(replace(query, k=query.reach, offset=0), rows, scores)

    def _rerank(self, queries: Sequence[SearchQuery], rankings: Sequence[_Ranking]) -> list[_Ranking]:
        """The first `rerank` hits of each query that asks for it in the teacher's order, and no others."""
        assert self.reranker is not None, "the engine refuses rerank without a teacher"
        result = list(rankings)
        asked = [number for number, query in enumerate(queries) if query.rerank is not None]
        cut = {number: rankings[number].rows[: queries[number].rerank] for number in asked}
        records = [self._corpus.records_at(cut[number].tolist()) for number in asked]
        orders = reranked(self.reranker, [queries[number].text for number in asked], records)
        for number, (order, scores) in zip(asked, orders, strict=True):
            needed = queries[number].needed
            result[number] = _Ranking(cut[number][order][:needed], scores[:needed])
        return result

    def _fetch(self, queries: Sequence[SearchQuery], rankings: Sequence[_Ranking]) -> list[list[Hit]]:
        """Texts of all pages in one lookup, then hits."""
        wanted = [ranking.rows[query.offset :] for query, ranking in zip(queries, rankings, strict=True)]
        records = iter(self._corpus.records_at(np.concatenate(wanted).tolist(), SHOWN))
        result = []
        for query, ranking, rows in zip(queries, rankings, wanted, strict=True):
            found = [next(records) for _ in rows]
            result.append(
                make_hits(query.text, found, ranking.scores[query.offset :].tolist(), query.highlight, self._common)
            )
        return result


def _deepened(query: SearchQuery) -> SearchQuery:
    """The dense search that the stages after it need."""
    if query.hybrid:
        return replace(query, offset=0, k=fused_depth(query.reach), group_by=None)
    return query if query.rerank is None else replace(query, offset=0, k=query.reach)


class _Clock:
    def __init__(self) -> None:
        self.laps_ms: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps_ms[name] = (now - self._last) * 1000
        self._last = now
