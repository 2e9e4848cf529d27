"""The teacher's word maps of some pairs, fitted to what the student sees of them: targets of the word-level loss.

A map covers the words that the teacher saw (a window of a long passage, say), the student's texts may be cut elsewhere.
Words that are not present on both sides are left out of both maps, and rows sum to 1 again.

Neighbours: `models/word_maps.py` stores and fits maps, `word_level.py` holds the loss, `collate.py` asks for targets.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retort.distillation.training_set import TrainingSet
from retort.errors import CorruptError
from retort.models.alignment import pooling_matrices
from retort.models.judgements import Judgements
from retort.models.word_maps import WordMap, collate, restrict

__all__ = ["PairTargets", "WordTargets"]

GROUPS_KEPT = 4096  # queries whose maps are kept in memory: a batch asks for the same query once per forward pass

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class PairTargets:
    """Word-level targets of n pairs whose passages are encoded in one forward pass. q, p, k: words; t: tokens."""

    queries: Tensor  # [n] int64 place of the query in its chunk
    passages: Tensor  # [n] int64 place of the passage in its forward pass
    query_columns: Tensor  # [n, t, q] pooling matrices of the query ...
    query_rows: Tensor  # [n, q, t]
    passage_columns: Tensor  # [n, t, p] ... and of the passage
    passage_rows: Tensor  # [n, p, t]
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
        return PairTargets(
            **{field.name: getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)}
        )


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
        query_columns, query_word_rows = pooling_matrices(ours, tokens=tokens[0], width=batch.weight.shape[1])
        passage_columns, passage_word_rows = pooling_matrices(theirs, tokens=tokens[1])
        fitted = restrict(batch, query_columns.sum(dim=1) > 0, passage_columns.sum(dim=1) > 0)
        return PairTargets(
            queries=torch.from_numpy(query_places),
            passages=torch.from_numpy(passage_places),
            query_columns=query_columns,
            query_rows=query_word_rows,
            passage_columns=passage_columns,
            passage_rows=passage_word_rows,
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
