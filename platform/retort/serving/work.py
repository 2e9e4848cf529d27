"""What goes through the batcher, and how a batch of it is answered: searches together, embeddings by encoder and side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retort.serving.models import SearchRequest
from retort.serving.needs import Side
from retort.serving.searcher import SearchQuery, SearchResult
from retort.serving.served import Served

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class SearchWork:
    """The queries of one request, and the release that answers them."""

    served: Served
    queries: Sequence[SearchQuery]

    @property
    def weight(self) -> int:
        """Queries in it."""
        return len(self.queries)


@dataclass(frozen=True)
class EmbedWork:
    """The texts of one request for vectors."""

    served: Served
    texts: Sequence[str]
    encoder: str
    side: Side

    @property
    def weight(self) -> int:
        """Texts in it."""
        return len(self.texts)


Work = SearchWork | EmbedWork
Done = list[SearchResult] | tuple[Vectors, int]
"""Of a search its results; of an embedding the vectors [n, dimension] and the tokens read."""


def queries_of(request: SearchRequest, encoder: str) -> list[SearchQuery]:
    """The queries of a request, each with all its settings."""
    return [
        SearchQuery(
            text=text,
            k=request.k,
            offset=request.offset,
            encoder=encoder,
            filters=request.filters,
            group_by=request.group_by,
            highlight=request.highlight,
            hybrid=request.hybrid,
            rerank=request.rerank,
        )
        for text in request.texts
    ]


def cache_key(request: SearchRequest, encoder: str) -> tuple[str, str]:
    """Everything that decides the hits."""
    return encoder, request.model_dump_json(exclude={"encoder", "deadline_ms"}, exclude_defaults=True)


def run_batch(batch: Sequence[Work]) -> list[Done]:
    """The result of each work, in order, on the calling thread. Works of two releases may meet: a swap came between them."""
    results: dict[int, Done] = {}
    searches: dict[int, list[int]] = {}
    embeddings: dict[tuple[int, str, Side], list[int]] = {}
    for number, work in enumerate(batch):
        if isinstance(work, SearchWork):
            searches.setdefault(id(work.served), []).append(number)
        else:
            embeddings.setdefault((id(work.served), work.encoder, work.side), []).append(number)
    for numbers in searches.values():
        _search([work for number in numbers if isinstance(work := batch[number], SearchWork)], numbers, results)
    for numbers in embeddings.values():
        _embed([work for number in numbers if isinstance(work := batch[number], EmbedWork)], numbers, results)
    return [results[number] for number in range(len(batch))]


def _search(works: Sequence[SearchWork], numbers: Sequence[int], results: dict[int, Done]) -> None:
    found = iter(works[0].served.searcher.search([query for work in works for query in work.queries]))
    for number, work in zip(numbers, works, strict=True):
        results[number] = [next(found) for _ in work.queries]


def _embed(works: Sequence[EmbedWork], numbers: Sequence[int], results: dict[int, Done]) -> None:
    searcher, encoder, side = works[0].served.searcher, works[0].encoder, works[0].side
    vectors = searcher.embed([text for work in works for text in work.texts], encoder, side)  # [all texts, dim]
    start = 0
    for number, work in zip(numbers, works, strict=True):
        end = start + len(work.texts)
        results[number] = (vectors[start:end], searcher.count_tokens(work.texts, encoder, side))
        start = end
