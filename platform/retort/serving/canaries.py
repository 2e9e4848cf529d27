"""Queries that a release must answer before it may take traffic.

check_own_queries    derived: the text of a passage, asked as a query, finds that passage; vectors are finite and of the
                     index's dimension. It catches weights, pooling or rows that went wrong, not a small loss of quality:
                     that is the evaluation's task.
check_canaries       stored in the release: query -> passages of which one must be among the first hits
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retort.errors import CorruptError, OverloadedError
from retort.releases.release import Canary
from retort.serving.searcher import Searcher, SearchQuery, SearchResult

_ASKED = 8
_WITHIN = 10
_ENOUGH = 0.5
_QUERY_CHARS = 400


def check_own_queries(searcher: Searcher, encoder: str) -> None:
    """Raise CorruptError unless passages spread over the corpus are found by their own texts with this encoder.

    OverloadedError where a part of the index did not answer: nothing is known then.
    """
    rows = np.unique(np.linspace(0, len(searcher) - 1, num=min(len(searcher), _ASKED), dtype=np.int64))
    records = searcher.records_at(rows.tolist())
    queries = [f"{record['title']}\n{record['text']}"[:_QUERY_CHARS] for record in records]
    vectors = searcher.embed(queries, encoder, "query")
    if not np.isfinite(vectors).all():
        raise CorruptError(f"Query encoder {encoder!r} gives vectors that are not finite. Look at its weights.")
    results = _answers(searcher, [SearchQuery(text, k=_WITHIN, encoder=encoder, highlight=False) for text in queries])
    found = 0
    for record, result in zip(records, results, strict=True):
        if not all(np.isfinite(hit.score) for hit in result.hits):
            raise CorruptError(f"Query encoder {encoder!r} gives scores that are not finite over this index.")
        found += any(hit.passage_id == record["passage_id"] or hit.text == record["text"] for hit in result.hits)
    if found < _ENOUGH * len(records):
        raise CorruptError(
            f"With query encoder {encoder!r} only {found} of {len(records)} passages were among the first {_WITHIN} hits for "
            "their own text: encoder and index do not belong together, or one of them is broken."
        )


def check_canaries(searcher: Searcher, canaries: Sequence[Canary]) -> None:
    """Raise CorruptError naming the first canary none of whose passages is among its first hits; OverloadedError as above."""
    if not canaries:
        return
    asked = [SearchQuery(item.query, k=item.within, encoder=item.encoder, highlight=False) for item in canaries]
    results = _answers(searcher, asked)
    for item, result in zip(canaries, results, strict=True):
        ids = [hit.passage_id for hit in result.hits]
        if not set(ids) & set(item.expect):
            raise CorruptError(
                f"Canary {item.query!r} expects one of {', '.join(item.expect)} among the first {item.within} hits; "
                f"they are {', '.join(ids[:5]) or 'none'}."
            )


def _answers(searcher: Searcher, queries: Sequence[SearchQuery]) -> list[SearchResult]:
    """Hits from the whole index, or OverloadedError."""
    results = searcher.search(queries)
    missing = results[0].missing_shards
    if missing:
        raise OverloadedError(f"Shards {', '.join(map(str, missing))} did not answer the release's check: try again.")
    return results
