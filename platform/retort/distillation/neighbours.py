"""Vectors by which a batch's queries are found to be neighbours: of the query alone, or with its answer's stored vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from retort.errors import InputError
from retort.models.dual_encoder import DualEncoder
from retort.store import Artefact

__all__ = ["neighbour_vectors", "stored_vectors"]


def neighbour_vectors(
    encoder: DualEncoder,
    texts: Sequence[str],
    positives: Sequence[Sequence[int]],
    ids: Sequence[str],
    passage_vectors: Callable[[Sequence[str]], Mapping[str, NDArray[np.float32]]] | None,
) -> NDArray[np.float32]:
    """[queries, dim] of length 1: the query, plus its first positive where passage vectors are at hand."""
    vectors = encoder.encode(texts, "query")
    if passage_vectors is not None:
        firsts = {i: ids[rows[0]] for i, rows in enumerate(positives) if rows}
        known = passage_vectors(sorted(set(firsts.values())))
        for i, passage in firsts.items():
            if passage in known:
                vectors[i] += known[passage]
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, 1e-9)
    return unit


def stored_vectors(
    embeddings: Artefact, dimension: int
) -> Callable[[Sequence[str]], Mapping[str, NDArray[np.float32]]]:
    """Look passages up in an embeddings artefact.

    Raises:
        InputError: its vectors have another length than the base's.
    """

    def look_up(ids: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        found: dict[str, NDArray[np.float32]] = {}
        wanted = pa.array(ids, pa.string())
        for part in embeddings.parts():
            table = embeddings.part(part, columns=["passage_id", "vector"])
            table = table.filter(pc.is_in(table.column("passage_id"), value_set=wanted))
            for name, vector in zip(table.column("passage_id").to_pylist(), table.column("vector"), strict=True):
                found[name] = np.asarray(vector.values, dtype=np.float32)
        wrong = next((len(vector) for vector in found.values() if len(vector) != dimension), None)
        if wrong is not None:
            raise InputError(
                f"{embeddings} holds vectors of {wrong} numbers, the base encoder makes {dimension}. Name embeddings of that base."
            )
        return found

    return look_up
