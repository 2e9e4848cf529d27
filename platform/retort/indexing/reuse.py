"""Vectors taken over from earlier embeddings: of passages whose text is unchanged, made by the same encoder in the same way.

    check_reusable(source, corpus, encoder, identity)    refuses embeddings of another encoder or other numerics
    plan_reuse(source, corpus) -> Reuse                  which row of the source serves which row of the corpus
    Reuse.of_part(part)                                  positions in a part, and their float16 vectors, bit for bit

Reuse is not part of the embeddings' key. A vector depends in its last bits on which texts were encoded with it, and so already
differs between two devices, backends or token budgets that share a key; what a key promises is the same vectors within
rounding (cosine > 0.9999), and a copy keeps that. What is built on embeddings is bound by digest, which does differ. The
manifest says how many were taken over, and from where.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retort.corpus.lookup import Passages
from retort.errors import IncompatibleError
from retort.indexing.changes import matching_rows
from retort.indexing.vectors import VectorStore, part_rows
from retort.store import Artefact

__all__ = ["Reuse", "check_reusable", "plan_reuse"]

NOT_NUMERICS = ("seed",)
"""Fields of the config that no vector depends on."""


@dataclass(frozen=True)
class Reuse:
    """Rows to take over; picklable (the vectors are mapped, not copied)."""

    source: VectorStore
    rows: NDArray[np.int64]  # [rows of the corpus] row of the source, -1 where there is none
    first_rows: Mapping[str, int]
    counts: Mapping[str, int]

    @property
    def taken(self) -> int:
        """Vectors taken over."""
        return int((self.rows >= 0).sum())

    def missing(self, part: str) -> int:
        """Passages of a part that must be encoded."""
        return int((self._of(part) < 0).sum())

    def of_part(self, part: str) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
        """Positions in the part [n], ascending, and their vectors [n, dimension] float16."""
        rows = self._of(part)
        positions = np.flatnonzero(rows >= 0)
        return positions, np.asarray(self.source.half[rows[positions]])

    def _of(self, part: str) -> NDArray[np.int64]:
        first = self.first_rows[part]
        return self.rows[first : first + self.counts[part]]


def check_reusable(source: Artefact, encoder: Artefact, identity: Mapping[str, Any]) -> None:
    """Raise IncompatibleError unless `source` was made by this encoder with these settings."""
    made_by = next((item for item in source.manifest.inputs if item.role == "encoder"), None)
    if made_by is None or made_by.digest != encoder.digest:
        other = f"{made_by.name} ({made_by.digest[:12]})" if made_by else "an unknown encoder"
        raise IncompatibleError(
            f"{source} was made by {other}, not by {encoder.name} ({encoder.digest[:12]}): its vectors cannot be reused. "
            "Leave reuse out, or name embeddings of this encoder."
        )
    old, new = source.manifest.config, identity
    # A field that one side does not have is younger than that side, and had its default then; but a backend is left out
    # of the config where it changes no number (EmbedConfig.identity).
    shared = (old.keys() & new.keys()) - {*NOT_NUMERICS, "backend"}
    differing = [key for key in shared if old[key] != new[key]]
    if old.get("backend") != new.get("backend"):
        differing.append("backend")
    if differing:
        raise IncompatibleError(
            f"{source} was made with other settings ({', '.join(sorted(differing))}): its vectors cannot be reused. Leave reuse out, or embed with those."
        )


def plan_reuse(source: Artefact, corpus: Artefact) -> Reuse:
    """Find the rows to take over. NotFoundError if the source's corpus is no longer in the store: texts could not be compared."""
    matches = matching_rows(Passages.open(corpus), Passages.open(source.input("corpus")))
    parts = part_rows(corpus)
    counts = dict(parts)
    starts = np.cumsum([0, *(rows for _, rows in parts)]).tolist()
    return Reuse(VectorStore.open(source), matches, dict(zip(counts, starts, strict=False)), counts)
