"""What every look at the languages reads: small arrays in one folder, memory-mapped, made once per run.

    vectors.npy           float16 [rows, dim]    passages, block after block; a block is what some queries search
    codes.npy             int32 [rows, levels]   category of each passage at each level, -1 for none
    tokens.npy            int32, offsets.npy     distinct query texts as token ids, one after another
    entries.npy           int32 [entries, 2]     one query in one cell: its text, its number in `query_ids`
    entry_codes.npy       int32 [entries, levels]   category that the query is asked in, -1 where it takes no part
    pairs.npy             int32 [pairs, 2]       relevant passage (place in the cell's block) and grade
    pair_offsets.npy      int64 [entries + 1]
    guard.json            settings, cells, ids, notes

A *cell* is a set, a language and a kind: "same" (passages of the query's language), "cross" (passages of the pivot
language) or "target" (the tuned task). Neighbours: `guard_sets.py` writes this, `looks.py` reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from retort.errors import CorruptError
from retort.indexing.vectors import Similarity
from retort.tuning.guard_settings import GuardSettings

__all__ = ["ALL", "Cell", "GuardData", "Kind", "new_vectors"]

Kind = Literal["same", "cross", "target"]
ALL = "all"
"""The level at which a query searches all passages of its block."""

_ARRAYS = ("vectors", "codes", "tokens", "offsets", "entries", "entry_codes", "pairs", "pair_offsets")
_JSON = "guard.json"


@dataclass(frozen=True)
class Cell:
    """Queries of one set and language that search one block of passages."""

    set: str
    language: str
    kind: Kind
    block: tuple[int, int]  # rows of `vectors`
    entries: tuple[int, int]  # rows of `entries`


@dataclass(frozen=True)
class GuardData:
    """The arrays above, and what they mean."""

    settings: GuardSettings
    similarity: Similarity
    levels: tuple[str, ...]
    cells: tuple[Cell, ...]
    query_ids: tuple[str, ...]
    clusters: tuple[str, ...]  # of each of `query_ids`: the underlying query, the same for its translations
    notes: tuple[str, ...]
    vectors: NDArray[np.float16]
    codes: NDArray[np.int32]
    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    entries: NDArray[np.int32]
    entry_codes: NDArray[np.int32]
    pairs: NDArray[np.int32]
    pair_offsets: NDArray[np.int64]
    digest: str = ""

    def sequences(self, numbers: Sequence[int] | NDArray[np.integer]) -> list[list[int]]:
        """Token ids of these distinct texts."""
        return [self.tokens[self.offsets[i] : self.offsets[i + 1]].tolist() for i in numbers]

    def save(self, folder: Path) -> None:
        """Write all files below `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            values = getattr(self, name)
            if isinstance(values, np.memmap):
                values.flush()  # `new_vectors` made it in its place
            else:
                np.save(folder / f"{name}.npy", values)
        about = {
            "settings": self.settings.model_dump(mode="json"),
            "similarity": self.similarity,
            "levels": self.levels,
            "cells": [asdict(cell) for cell in self.cells],
            "query_ids": self.query_ids,
            "clusters": self.clusters,
            "notes": self.notes,
            "digest": self._digest(),
        }
        (folder / _JSON).write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Map the files below `folder`; CorruptError where one is missing or cannot be read."""
        try:
            about: dict[str, Any] = json.loads((folder / _JSON).read_text(encoding="utf-8"))
            arrays = {name: _mapped(folder / f"{name}.npy") for name in _ARRAYS}
        except (OSError, ValueError) as error:
            raise CorruptError(
                f"The guard's files in {folder} cannot be read: {error}. Delete the folder and run the same command again."
            ) from None
        cells = tuple(
            Cell(**{**cell, "block": tuple(cell["block"]), "entries": tuple(cell["entries"])})
            for cell in about["cells"]
        )
        return cls(
            settings=GuardSettings.model_validate(about["settings"]),
            similarity=about["similarity"],
            levels=tuple(about["levels"]),
            cells=cells,
            query_ids=tuple(about["query_ids"]),
            clusters=tuple(about["clusters"]),
            notes=tuple(about["notes"]),
            digest=about["digest"],
            **arrays,
        )

    def _digest(self) -> str:
        """Says which looks belong together: everything that decides what is measured."""
        found = hashlib.sha256()
        for name in _ARRAYS:
            found.update(np.ascontiguousarray(getattr(self, name)).reshape(-1).view(np.uint8).data)  # no copy
        what = [self.similarity, self.levels, [asdict(cell) for cell in self.cells], self.query_ids]
        found.update(json.dumps(what, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        return found.hexdigest()


def new_vectors(folder: Path, rows: int, dimension: int) -> NDArray[np.float16]:
    """`vectors.npy` to be filled block by block: several languages of a large corpus need not fit in memory."""
    if not rows:
        return np.zeros((0, dimension), dtype=np.float16)  # an empty file cannot be mapped
    folder.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(folder / "vectors.npy", mode="w+", dtype=np.float16, shape=(rows, dimension))


def _mapped(path: Path) -> NDArray[Any]:
    """A plain array over the mapped file: numpy's memmap class is slow to index. Empty files cannot be mapped."""
    try:
        return np.asarray(np.load(path, mmap_mode="r"))
    except ValueError:
        return np.asarray(np.load(path))
