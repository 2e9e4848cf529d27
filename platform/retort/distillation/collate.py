"""From the rows of a batch to the tensors of a step: chunks of token batches, teacher scores, word-level targets.

A chunk holds some queries with all their passages, and so many that its activations fit in memory. Within a chunk every
passage is encoded once, texts of like length together. Everything here is a pure function of the batch and the training
set; it runs in the feeding thread, on the CPU.

Neighbours: `batches.py` draws the rows, `word_targets.py` reads the maps, `trainer.py` computes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retort.distillation.batches import Batch
from retort.distillation.training_set import Lists, Texts, TrainingSet
from retort.distillation.word_targets import PairTargets, WordTargets
from retort.models.batching import pad, token_batches

__all__ = ["Chunk", "Collator", "StepInput", "TokenBatch"]

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class TokenBatch:
    """Texts of like length that are encoded together."""

    ids: Tensor  # [texts, tokens] int64
    mask: Tensor  # [texts, tokens] int64
    places: IntArray  # [texts] which text of the chunk's side each is


@dataclass(frozen=True)
class Chunk:
    """Some queries with all their passages; the vectors of a chunk are those of its queries, then of its passages."""

    queries: list[TokenBatch]
    passages: list[TokenBatch]
    query_count: int
    passage_count: int
    targets: list[PairTargets | None]  # word level, one per passage batch

    @property
    def token_batches(self) -> list[TokenBatch]:
        """Everything to encode."""
        return [*self.queries, *self.passages]


@dataclass(frozen=True)
class StepInput:
    """One rank's share of a step, ready to compute."""

    batch: Batch
    chunks: list[Chunk]
    pool: IntArray  # [columns] passage row of each passage vector, chunk after chunk
    columns: Tensor  # [queries, candidates] int64, the column of each candidate; 0 where there is none
    present: Tensor  # [queries, candidates] bool
    labelled: Tensor  # [queries] bool
    judged: Tensor  # [queries, candidates] bool
    scores: Tensor  # [queries, candidates] float32 teacher logits; 0 where not judged
    trust: Tensor  # [queries, candidates] float32
    mapped_pairs: int  # pairs with word-level targets
    tokens: int  # padded tokens in one forward pass


class Collator:
    """Makes the inputs of a run's steps."""

    def __init__(
        self,
        data: TrainingSet,
        *,
        padding: int,
        chunk_tokens: int,
        forward_tokens: int,
        word_targets: WordTargets | None,
    ) -> None:
        """Take the training set and the two limits.

        Args:
            data: texts and judgements.
            padding: the tokenizer's padding id.
            chunk_tokens: tokens of a chunk, that is of the activations held at once; a single query may exceed it.
            forward_tokens: padded tokens of one forward pass within a chunk.
            word_targets: the teacher's maps; None switches the word level off.
        """
        self._data = data
        self._padding = padding
        self._chunk_tokens, self._forward_tokens = chunk_tokens, forward_tokens
        self._word_targets = word_targets

    def __call__(self, batch: Batch) -> StepInput:
        """Tensors of one rank's share."""
        present = batch.candidates >= 0  # [queries, candidates]
        judged, scores, trust, places = self._judgements(batch)
        chunks: list[Chunk] = []
        pool: list[IntArray] = []
        columns = np.zeros_like(batch.candidates)
        start = 0
        for rows in self._cut(batch):
            passages, inverse = np.unique(batch.candidates[rows][present[rows]], return_inverse=True)
            inside = np.zeros(present[rows].shape, dtype=np.int64)
            inside[present[rows]] = inverse
            columns[rows] = np.where(present[rows], start + inside, 0)
            chunks.append(self._chunk(batch, rows, passages, inside, places[rows], trust[rows]))
            pool.append(passages)
            start += len(passages)
        return StepInput(
            batch=batch,
            chunks=chunks,
            pool=np.concatenate(pool),
            columns=torch.from_numpy(columns),
            present=torch.from_numpy(present),
            labelled=torch.from_numpy(batch.labelled),
            judged=torch.from_numpy(judged),
            scores=torch.from_numpy(scores),
            trust=torch.from_numpy(trust),
            mapped_pairs=sum(target.pairs for chunk in chunks for target in chunk.targets if target is not None),
            tokens=sum(part.ids.numel() for chunk in chunks for part in chunk.token_batches),
        )

    def _cut(self, batch: Batch) -> list[IntArray]:
        """Places of the queries of each chunk, in order; every chunk has one query at least."""
        passages = self._data.passages.tokens.lengths(np.maximum(batch.candidates, 0).reshape(-1))
        per_list = np.where(batch.candidates >= 0, passages.reshape(batch.candidates.shape), 0).sum(axis=1)
        sizes = per_list + self._data.queries.tokens.lengths(batch.queries)
        cuts: list[int] = []
        used = 0
        for i, size in enumerate(sizes.tolist()):
            if used and used + size > self._chunk_tokens:
                cuts.append(i)
                used = 0
            used += size
        return list(np.split(np.arange(len(batch.queries)), cuts))

    def _chunk(
        self,
        batch: Batch,
        rows: IntArray,
        passages: IntArray,
        inside: IntArray,
        places: NDArray[np.int32],
        trust: NDArray[np.float32],
    ) -> Chunk:
        queries = self._token_batches(self._data.queries, batch.queries[rows])
        parts = self._token_batches(self._data.passages, passages)
        targets: list[PairTargets | None] = [None] * len(parts)
        if self._word_targets is not None:
            query_tokens = max((part.ids.shape[1] for part in queries), default=0)
            for number, part in enumerate(parts):
                # Pairs whose passage is in this forward pass: (query, candidate) places of the chunk.
                position = np.full(len(passages), -1, dtype=np.int64)
                position[part.places] = np.arange(len(part.places))
                who, which = np.nonzero((places >= 0) & (position[inside] >= 0) & (batch.candidates[rows] >= 0))
                targets[number] = self._word_targets(
                    data=self._data,
                    query_rows=batch.queries[rows][who],
                    passage_rows=passages[inside[who, which]],
                    places=places[who, which],
                    query_places=who,
                    passage_places=position[inside[who, which]],
                    trust=trust[who, which],
                    tokens=(query_tokens, int(part.ids.shape[1])),
                )
        return Chunk(
            queries=queries, passages=parts, query_count=len(rows), passage_count=len(passages), targets=targets
        )

    def _token_batches(self, texts: Texts, rows: IntArray) -> list[TokenBatch]:
        batches = []
        for places in token_batches(texts.tokens.lengths(rows), self._forward_tokens):
            ids, mask = pad([texts.tokens[int(rows[i])] for i in places], self._padding)
            batches.append(TokenBatch(ids=ids, mask=mask, places=places))
        return batches

    def _judgements(
        self, batch: Batch
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
        """Judged, score, trust and place in the judged group of each candidate; all [queries, candidates]."""
        shape = batch.candidates.shape
        judged = np.zeros(shape, dtype=bool)
        scores, trust = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
        places = np.full(shape, -1, dtype=np.int32)
        lists: Lists = self._data.judged
        for i, query in enumerate(batch.queries.tolist()):
            start, stop = int(lists.offsets[query]), int(lists.offsets[query + 1])
            if start == stop:
                continue
            mine = lists.values[start:stop]  # ascending
            at = np.minimum(np.searchsorted(mine, batch.candidates[i]), len(mine) - 1)
            found = mine[at] == batch.candidates[i]
            judged[i] = found
            scores[i][found] = self._data.scores[start + at[found]]
            trust[i][found] = self._data.trust[start + at[found]]
            places[i][found] = self._data.places[start + at[found]]
        return judged, scores, trust, places
