"""The teacher's word maps of some pairs, fitted to what the student sees of them: targets of the word-level loss.

A map covers the words that the teacher saw (a window of a long passage, say), the student's texts may be cut elsewhere.
Words that are not present on both sides are left out of both maps, and rows sum to 1 again.

Neighbours: `models/word_maps.py` stores and fits maps, `word_level.py` holds the loss, `collate.py` asks for targets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retort.distillation.training_set import TrainingSet
from retort.errors import CorruptError
from retort.models.alignment import pad_words, word_matrices, words_present
from retort.models.judgements import Judgements
from retort.models.word_maps import WordMap, collate, restrict

__all__ = ["PairTargets", "WordTargets"]

GROUPS_KEPT = 4096  # queries whose maps are kept in memory: a batch asks for the same query once per forward pass

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class PairTargets:
    """Word-level targets of n pairs whose passages are encoded in one forward pass. q, p, k: words; t: tokens.

    Kept small, for the pairs of whole steps wait in memory: the pooling matrices, of t x p numbers, are made when asked for.
    """

    queries: Tensor  # [n] int64 place of the query in its chunk
    passages: Tensor  # [n] int64 place of the passage in its forward pass
    query_ranges: Tensor  # [n, t, 2] int32 words of each token in use, as `models.alignment.pad_words` gives them
    passage_ranges: Tensor  # [n, t, 2] int32
    passage_words: int  # p
    index: Tensor  # [n, q, k] int64 passage words of each entry, -1 in padding
    weight: Tensor  # [n, q, k] float32
    rest: Tensor  # [n, q] float32, the bucket
    rows: Tensor  # [n, k] int64 passage words that have a row to the query, -1 in padding
    row_weight: Tensor  # [n, k, q] float32
    trust: Tensor  # [n] float32

    @property
    def pairs(self) -> int:
        """n."""
        return len(self.queries)

    def to(self, device: torch.device) -> PairTargets:
        """The same on a device."""
        values = vars(self).items()
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in values if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def matrices(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Pooling matrices (columns [n, t, words], rows [n, words, t]) of the queries, and of the passages."""
        of_queries = word_matrices(self.query_ranges, self.weight.shape[1])
        return of_queries, word_matrices(self.passage_ranges, self.passage_words)


class WordTargets:
    """Reads maps from judgements and fits them."""

    def __init__(self, judgements: Judgements) -> None:
        """Take the judgements that the training set was made from."""
        self._judgements = judgements
        self._maps_of = lru_cache(maxsize=GROUPS_KEPT)(lambda group: judgements[group].word_maps)

    def __call__(
        self,
        *,
        data: TrainingSet,
        query_rows: IntArray,
        passage_rows: IntArray,
        places: NDArray[np.int32],
        query_places: IntArray,
        passage_places: IntArray,
        trust: NDArray[np.float32],
        tokens: tuple[int, int],
    ) -> PairTargets | None:
        """Targets of n pairs, or None for n = 0.

        Args:
            data: the training set.
            query_rows: [n] query rows of the training set.
            passage_rows: [n] passage rows.
            places: [n] place of each passage in its query's judged group.
            query_places: [n] place of the query in its chunk.
            passage_places: [n] place of the passage in its forward pass.
            trust: [n] in [0, 1].
            tokens: widths of the padded states of queries and of passages.

        Raises:
            CorruptError: a stored map cannot be read; names the query and the passage.
        """
        if not len(query_rows):
            return None
        maps = [
            self._read(data, *triple)
            for triple in zip(query_rows.tolist(), passage_rows.tolist(), places.tolist(), strict=True)
        ]
        batch = collate(maps)
        # Words beyond what the teacher saw get an empty range, and so no column and no row.
        ours = [
            np.minimum(data.queries.words_of(row), one.query_words)
            for row, one in zip(query_rows.tolist(), maps, strict=True)
        ]
        theirs = [
            np.clip(data.passages.words_of(row), one.first, one.stop)
            for row, one in zip(passage_rows.tolist(), maps, strict=True)
        ]
        query_ranges, passage_ranges = pad_words(ours, tokens[0]), pad_words(theirs, tokens[1])
        passage_words = int(passage_ranges[..., 1].max())
        fitted = restrict(
            batch, words_present(query_ranges, batch.weight.shape[1]), words_present(passage_ranges, passage_words)
        )
        return PairTargets(
            queries=torch.from_numpy(query_places),
            passages=torch.from_numpy(passage_places),
            query_ranges=query_ranges,
            passage_ranges=passage_ranges,
            passage_words=passage_words,
            index=fitted.index,
            weight=fitted.weight,
            rest=fitted.rest,
            rows=fitted.rows,
            row_weight=fitted.row_weight,
            trust=torch.from_numpy(trust),
        )

    def _read(self, data: TrainingSet, query: int, passage: int, place: int) -> WordMap:
        blob = self._maps_of(int(data.groups[query]))[place]
        try:
            return WordMap.from_bytes(blob or b"")
        except CorruptError as error:
            raise CorruptError(
                f"{error} It belongs to query {data.query_ids[query]!r}, passage {data.passage_ids[passage]!r}."
            ) from None
