"""Which vectors of a shard may be found: filters, deletions and masks as one set of positions, and how FAISS is told.

    Passing(mask)                        the positions that may be found, bool [count of the shard]
    search_passing(index, ...)           FAISS's best among them, for every kind

Kinds that take an id selector are given a bitmap, and look deeper the fewer pass; the others are searched deeper and
what may not be found is left out afterwards, until enough is left or the shard ends.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retort.indexing.faiss_library import faiss
from retort.indexing.kinds import inner_index

__all__ = ["Passing", "search_passing"]


class Passing:
    """Positions of one shard that may be found. Safe to share between threads."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        """Take the mask [count]; it must not change afterwards."""
        self.mask = mask
        self.count = int(np.count_nonzero(mask))
        self.share = self.count / max(1, len(mask))

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """The positions themselves, ascending."""
        return np.flatnonzero(self.mask)

    @cached_property
    def _bits(self) -> NDArray[np.uint8]:
        return np.packbits(self.mask, bitorder="little")

    @cached_property
    def selector(self) -> Any:
        """FAISS's view of it; it points into this object, which must outlive every search."""
        return faiss.IDSelectorBitmap(self._bits)


def search_passing(
    index: Any, vectors: NDArray[np.float32], wanted: int, passing: Passing, *, narrow: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `wanted` best of what passes: scores and positions [n, wanted], position -1 where there are no more.

    `narrow`: so few pass that their codes are read, all of them, and no graph is walked.
    """
    if narrow and isinstance(index, faiss.IndexHNSW):
        codes = faiss.downcast_index(index.storage)
        if isinstance(codes, faiss.IndexFlat | faiss.IndexScalarQuantizer):
            scores, rows = codes.search(vectors, wanted, params=faiss.SearchParameters(sel=passing.selector))
            return scores, rows
    parameters = _parameters(index, passing)
    if parameters is not None:
        scores, rows = index.search(vectors, wanted, params=parameters)
        return scores, rows
    return _filtered_afterwards(index, vectors, wanted, passing)


def _parameters(index: Any, passing: Passing) -> Any | None:
    """Search parameters with the selector, or None for a kind that FAISS searches without one."""
    inner = inner_index(index)
    parameters: Any
    if isinstance(inner, faiss.IndexIVF):
        # Lists hold fewer that pass, so more of them are read.
        probes = min(inner.nlist, int(np.ceil(inner.nprobe / max(passing.share, 1e-9))))
        parameters = faiss.SearchParametersIVF(sel=passing.selector, nprobe=probes)
    elif isinstance(inner, faiss.IndexHNSW):
        # The graph is walked through what does not pass too; the width must hold enough that does.
        breadth = min(index.ntotal, int(np.ceil(inner.hnsw.efSearch / max(passing.share, 1e-9))))
        parameters = faiss.SearchParametersHNSW(sel=passing.selector, efSearch=breadth)
    elif isinstance(inner, faiss.IndexFlat | faiss.IndexScalarQuantizer):
        parameters = faiss.SearchParameters(sel=passing.selector)
    else:
        return None
    return parameters if inner is index else faiss.SearchParametersPreTransform(index_params=parameters)


def _filtered_afterwards(
    index: Any, vectors: NDArray[np.float32], wanted: int, passing: Passing
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    needed = min(wanted, passing.count)
    depth = min(index.ntotal, int(1.5 * wanted / max(passing.share, 1e-9)) + 1)
    while True:
        scores, rows = index.search(vectors, depth)
        fits = (rows >= 0) & passing.mask[rows]  # row -1 reads the last place, and is left out by the first half
        if depth == index.ntotal or (fits.sum(axis=1) >= needed).all():
            break
        depth = min(index.ntotal, 4 * depth)
    order = np.argsort(~fits, axis=1, kind="stable")[:, :wanted]  # what passes first, in FAISS's order
    kept = np.take_along_axis(fits, order, axis=1)
    return (
        np.where(kept, np.take_along_axis(scores, order, axis=1), -np.inf).astype(np.float32),
        np.where(kept, np.take_along_axis(rows, order, axis=1), -1),
    )
