"""The first hits of a ranking in the order of a teacher that reads query and passage together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retort.corpus.passages import passage_text


class Reranker(Protocol):
    """What re-ranking needs of a teacher; models.CrossEncoder is one."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Raw relevance [n] of (query, passage text) pairs."""


def reranked(
    teacher: Reranker, queries: Sequence[str], candidates: Sequence[Sequence[dict[str, str]]]
) -> list[tuple[list[int], NDArray[np.float32]]]:
    """For each query the order of its candidates (places, best first, equal scores by passage id) and their scores in it.

    Args:
        teacher: scores all pairs in one call.
        queries: texts.
        candidates: per query, records with passage_id, title and text.
    """
    pairs = [
        (query, passage_text(record["title"], record["text"]))
        for query, records in zip(queries, candidates, strict=True)
        for record in records
    ]
    scores = teacher.score(pairs) if pairs else np.zeros(0, dtype=np.float32)
    result = []
    start = 0
    for records in candidates:
        own = scores[start : start + len(records)]
        start += len(records)
        order = sorted(range(len(records)), key=lambda place: (-own[place], records[place]["passage_id"]))
        result.append((order, own[order].astype(np.float32)))
    return result
