"""Embedding one part of a corpus: a plain class, run by `stages.py` in every actor and by tests without Ray."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa

from retort.corpus.passages import passage_text
from retort.errors import InputError
from retort.indexing.vectors import check_vectors
from retort.models.dual_encoder import Encoder
from retort.models.tokenising import UnencodableTextError
from retort.store import Artefact, Draft
from retort.store.schemas import embedding_schema

__all__ = ["PartEmbedder"]

COLUMNS = ["passage_id", "title", "text", "content_hash"]


class PartEmbedder:
    """Encodes the passages of a part and writes the embeddings part of the same name through the draft."""

    def __init__(self, *, draft: Draft, corpus: Artefact, encoder: Encoder, token_budget: int | None = None) -> None:
        """Take an open encoder; `token_budget` is padded tokens a batch, None chooses for the device."""
        self._draft, self._corpus, self._encoder, self._token_budget = draft, corpus, encoder, token_budget
        self._schema = embedding_schema(encoder.dimension)

    def __call__(self, part: str) -> dict[str, Any]:
        """Embed one part; returns its passages and the seconds taken.

        Raises InputError naming the passage: a text that cannot be encoded, a vector that is zero or not finite.
        """
        began = time.monotonic()
        table = self._corpus.part(part, columns=COLUMNS)
        ids = table.column("passage_id").to_pylist()
        texts = list(map(passage_text, table.column("title").to_pylist(), table.column("text").to_pylist()))
        # All of a part in one call: the encoder sorts by length within it, so that batches hold little padding.
        try:
            vectors = self._encoder.encode(
                texts, side="passage", token_budget=self._token_budget
            )  # [rows, dim] float32
        except UnencodableTextError as error:
            raise InputError(
                f"{self._corpus}, {part}: passage {ids[error.index]!r} cannot be encoded: {error.reason}. Mend its text and ingest again."
            ) from None
        with np.errstate(over="ignore"):  # what is too large for float16 is infinite then, and refused below
            half = vectors.astype(np.float16)
        check_vectors(half, ids, f"{self._corpus}, {part}")
        column = pa.FixedSizeListArray.from_arrays(pa.array(half.reshape(-1)), self._encoder.dimension)
        columns = [table.column("passage_id"), column, table.column("content_hash")]
        self._draft.write_table(part, pa.Table.from_arrays(columns, schema=self._schema))
        return {"passages": len(ids), "seconds": time.monotonic() - began}
