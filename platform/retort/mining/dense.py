"""Texts to passages by the current encoder: through a sharded index, or exactly over the embeddings in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from retort.errors import IncompatibleError
from retort.indexing.exact import ExactIndex
from retort.indexing.search import ShardedIndex
from retort.models.dual_encoder import DualEncoder, Encoder
from retort.store import Artefact

__all__ = ["DenseSearch"]


class DenseSearch:
    """An encoder and the vectors that its queries search."""

    def __init__(self, encoder: Encoder, index: ShardedIndex | ExactIndex) -> None:
        """Take an open encoder and index; IncompatibleError if they are of different passage spaces."""
        if encoder.passage_space != index.passage_space:
            raise IncompatibleError(
                f"The encoder scores in passage space {encoder.passage_space[:12]}, the vectors are in {index.passage_space[:12]}. "
                "Embed the corpus with this encoder, or name the encoder that it was embedded with."
            )
        self._encoder, self._index = encoder, index

    @classmethod
    def open(cls, encoder: Artefact, vectors: Artefact, threads: int = 1, precision: str = "auto") -> Self:
        """`vectors` is an index, searched with so many FAISS threads, or embeddings, searched exactly with torch's. Errors as those of encoder and index."""
        opened = ShardedIndex.open(vectors, threads) if vectors.kind == "index" else ExactIndex.open(vectors)
        loaded = DualEncoder.load(encoder.local(), precision=precision)
        search = cls(loaded, opened)
        loaded.pack()  # only now: which space it is in, its whole weights tell
        return search

    def search(self, texts: Sequence[str], k: int) -> tuple[list[list[str]], list[NDArray[np.float32]]]:
        """The k best passages of each text: ids, and scores [<= k] descending; equal scores by passage id."""
        hits = self._index.search(self._encoder.encode(texts, side="query"), k)
        ids, scores = [], []
        for rows, own in zip(hits.rows, hits.scores, strict=True):
            there = rows >= 0
            ids.append(self._index.passage_ids(rows[there]))
            scores.append(own[there])
        return ids, scores
