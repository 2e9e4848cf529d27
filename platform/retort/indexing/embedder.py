"""Embedding one part of a corpus: a plain class, run by `stages.py` in every actor and by tests without Ray."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retort.corpus.passages import passage_text
from retort.errors import InputError
from retort.indexing.reuse import Reuse
from retort.indexing.vectors import check_vectors
from retort.models.dual_encoder import DualEncoder, Side
from retort.models.onnx_graph import Backend
from retort.models.tokenising import UnencodableTextError
from retort.store import Artefact, Draft
from retort.store.schemas import embedding_schema

__all__ = ["PartEmbedder", "open_embedder"]

COLUMNS = ["passage_id", "title", "text", "content_hash"]


class PassageEncoder(Protocol):
    """What a part needs of an encoder; models.DualEncoder is one."""

    @property
    def dimension(self) -> int:
        """Length of its vectors."""

    def encode(self, texts: Sequence[str], side: Side = ..., token_budget: int | None = ...) -> NDArray[np.float32]:
        """[n, dimension] float32, in the order of `texts`."""


class PartEmbedder:
    """Encodes the passages of a part and writes the embeddings part of the same name through the draft."""

    def __init__(
        self,
        *,
        draft: Draft,
        corpus: Artefact,
        encoder: PassageEncoder,
        token_budget: int | None = None,
        reuse: Reuse | None = None,
    ) -> None:
        """Take an open encoder; `token_budget` is padded tokens a batch, None chooses for the device."""
        self._draft, self._corpus, self._encoder, self._token_budget = draft, corpus, encoder, token_budget
        self._reuse = reuse
        self._schema = embedding_schema(encoder.dimension)

    def __call__(self, part: str) -> dict[str, Any]:
        """Embed one part; returns its passages, those encoded, and the seconds taken.

        Raises InputError naming the passage: a text that cannot be encoded, a vector that is zero or not finite.
        """
        began = time.monotonic()
        table = self._corpus.part(part, columns=COLUMNS)
        ids = table.column("passage_id").to_pylist()
        half, encoded = self._taken_over(part, len(ids))
        asked = table.take(encoded) if len(encoded) < len(ids) else table
        texts = list(map(passage_text, asked.column("title").to_pylist(), asked.column("text").to_pylist()))
        encoding = time.monotonic()
        # All of a part in one call: the encoder sorts by length within it, so that batches hold little padding.
        try:
            vectors = self._encoder.encode(
                texts, side="passage", token_budget=self._token_budget
            )  # [rows, dim] float32
        except UnencodableTextError as error:
            raise InputError(
                f"{self._corpus}, {part}: passage {ids[encoded[error.index]]!r} cannot be encoded: {error.reason}. Mend its text and ingest again."
            ) from None
        encode_s = time.monotonic() - encoding
        with np.errstate(over="ignore"):  # what is too large for float16 is infinite then, and refused below
            half[encoded] = vectors
        check_vectors(half, ids, f"{self._corpus}, {part}")
        column = pa.FixedSizeListArray.from_arrays(pa.array(half.reshape(-1)), self._encoder.dimension)
        columns = [table.column("passage_id"), column, table.column("content_hash")]
        self._draft.write_table(part, pa.Table.from_arrays(columns, schema=self._schema))
        return {
            "passages": len(ids),
            "encoded": len(encoded),
            "encode_s": encode_s,
            "seconds": time.monotonic() - began,
        }

    def _taken_over(self, part: str, count: int) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
        """Vectors [count, dim] with those taken over in their places, and the positions left to encode."""
        half = np.empty((count, self._encoder.dimension), dtype=np.float16)
        if self._reuse is None:
            return half, np.arange(count)
        positions, vectors = self._reuse.of_part(part)
        half[positions] = vectors
        return half, np.setdiff1d(np.arange(count), positions, assume_unique=True)


class _NothingToEncode:
    """Stands for the encoder where every vector is taken over: loading weights would cost more than all the rest."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def encode(
        self, texts: Sequence[str], side: Side = "passage", token_budget: int | None = None
    ) -> NDArray[np.float32]:
        assert not texts, "a passage that nobody encodes"
        return np.empty((0, self.dimension), dtype=np.float32)


def open_embedder(
    draft: Draft,
    inputs: Mapping[str, Artefact],
    precision: str,
    backend: Backend | Literal["auto"],
    token_budget: int | None,
    reuse: Reuse | None,
) -> tuple[PartEmbedder, dict[str, str]]:
    """Load the encoder; returns the embedder of parts, and the backend and precision that it runs in."""
    common: dict[str, Any] = {"draft": draft, "corpus": inputs["corpus"], "token_budget": token_budget, "reuse": reuse}
    if reuse is not None and not (reuse.rows < 0).any():
        return PartEmbedder(encoder=_NothingToEncode(reuse.source.facts.dimension), **common), {}
    encoder = DualEncoder.load(inputs["encoder"].local(), precision=precision)
    chosen = encoder.use_backend(backend)
    return PartEmbedder(encoder=encoder.pack(), **common), {
        "backend": chosen,
        "precision": encoder.precision,
        "device": encoder.device.type,
    }
