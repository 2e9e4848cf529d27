"""Hits as the answer shows them: a passage's columns, its score, a snippet, and the words that match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retort.serving.highlights import Highlighter, best_window
from retort.serving.models import Hit, Snippet

SHOWN = ("passage_id", "text", "title", "doc_id", "lang", "section", "fields")
"""The corpus's columns that a hit shows."""


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
        snippet = Snippet(
            text=text[window.start : window.end],
            start=window.start,
            cut_before=window.start > 0,
            cut_after=window.end < len(text),
            words=window.words,
        )
        title_words = marker.matches(record["title"])
    shown = {name: record[name] for name in SHOWN}
    return Hit(**shown, score=score, snippet=snippet, title_words=title_words)
