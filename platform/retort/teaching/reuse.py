"""Scores of an earlier judgements artefact, found again by the content of the pair.

Queries are added and passages change; a pair whose two texts are the same as then, judged by the same teacher with the
same settings, need not be judged again. The index is three sorted arrays in the node cache (16 bytes a pair), made once per
machine and memory-mapped; rows are read from the earlier artefact one part at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retort.store import Artefact, cache_root

__all__ = ["ReuseIndex", "ReuseIndexes", "pair_hash"]

COLUMNS = ["score", "window", "word_map"]


def pair_hash(query: str, passage: str) -> str:
    """Return 16 hex characters of the SHA-256 over both texts; the separator cannot occur in either's UTF-8."""
    joined = query.encode("utf-8", "surrogatepass") + b"\xff" + passage.encode("utf-8", "surrogatepass")
    return hashlib.sha256(joined).hexdigest()[:16]


def _as_numbers(hashes: list[str]) -> NDArray[np.uint64]:
    return np.frombuffer(bytes.fromhex("".join(hashes)), dtype=">u8").astype(np.uint64)


class ReuseIndex:
    """Where the judgement of a content hash is: in which part, in which row."""

    def __init__(self, artefact: Artefact, folder: Path) -> None:
        """Map the arrays under `folder`."""
        self._artefact = artefact
        self._parts = artefact.parts()
        self._hashes = np.load(folder / "hashes.npy", mmap_mode="r")
        self._part_numbers = np.load(folder / "parts.npy", mmap_mode="r")
        self._rows = np.load(folder / "rows.npy", mmap_mode="r")

    @classmethod
    def open(cls, artefact: Artefact) -> ReuseIndex:
        """Open the index of a judgements artefact; the first time on a machine, make it."""
        target = cache_root() / "reuse" / artefact.digest
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
                cls._build(artefact, Path(temporary) / "new")
                # Another worker may have been quicker: its index is the same.
                with contextlib.suppress(OSError):
                    (Path(temporary) / "new").rename(target)
        return cls(artefact, target)

    @staticmethod
    def _build(artefact: Artefact, folder: Path) -> None:
        folder.mkdir(parents=True)
        hashes, parts, rows = [], [], []
        for number, part in enumerate(artefact.parts()):
            found = _as_numbers(artefact.part(part, columns=["content_hash"]).column(0).to_pylist())
            hashes.append(found)
            parts.append(np.full(len(found), number, dtype=np.uint32))
            rows.append(np.arange(len(found), dtype=np.uint32))
        every = np.concatenate(hashes) if hashes else np.zeros(0, dtype=np.uint64)
        order = np.argsort(every, kind="stable")
        np.save(folder / "hashes.npy", every[order])
        np.save(folder / "parts.npy", np.concatenate(parts)[order] if parts else np.zeros(0, dtype=np.uint32))
        np.save(folder / "rows.npy", np.concatenate(rows)[order] if rows else np.zeros(0, dtype=np.uint32))

    def find(self, hashes: list[str]) -> dict[int, dict[str, Any]]:
        """Return score, window and word_map for the positions of `hashes` that were judged before."""
        if not hashes or not len(self._hashes):
            return {}
        wanted = _as_numbers(hashes)
        places = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        hits = np.flatnonzero(self._hashes[places] == wanted)
        parts, rows = self._part_numbers[places[hits]], self._rows[places[hits]]
        found: dict[int, dict[str, Any]] = {}
        for number in np.unique(parts).tolist():
            mine = np.flatnonzero(parts == number)
            table = self._artefact.part(self._parts[number], columns=COLUMNS).take(
                pa.array(rows[mine].astype(np.int64))
            )
            found.update(zip(hits[mine].tolist(), table.to_pylist(), strict=True))
        return found


class ReuseIndexes:
    """Several earlier judgements as one: what the first does not hold, the next may."""

    def __init__(self, indexes: Sequence[ReuseIndex]) -> None:
        """Take the indexes in the order in which they are asked."""
        self._indexes = list(indexes)

    def find(self, hashes: list[str]) -> dict[int, dict[str, Any]]:
        """Return score, window and word_map for the positions of `hashes` that were judged before."""
        found: dict[int, dict[str, Any]] = {}
        for index in self._indexes:
            left = [position for position in range(len(hashes)) if position not in found]
            hits = index.find([hashes[position] for position in left])
            found |= {left[position]: row for position, row in hits.items()}
        return found
