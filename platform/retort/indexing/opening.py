"""One shard, opened: its checksum holds, its file is mapped, its scores do not depend on how the query came.

FAISS's file reader trusts its input, so a file is read only after its checksum was found right, once per machine and
version of the file. Every kind but fast-scan is then mapped: replicas on one machine share its pages.
"""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from retort.errors import CorruptError, NotFoundError
from retort.indexing.brute import best_rows
from retort.indexing.faiss_library import faiss
from retort.indexing.kinds import WIDTHS, faiss_reason
from retort.indexing.merge import Hits
from retort.indexing.passing import Passing, search_passing
from retort.indexing.vectors import VectorStore
from retort.store import Artefact, cache_root
from retort.store.files import storage_errors

__all__ = ["Shard", "exact_scores", "open_faiss_file", "verified", "write_faiss_file"]

log = logging.getLogger(__name__)

MARGIN = 8
"""Candidates beyond k that are looked at, so that rounding cannot push a passage over the edge."""
ROUNDING = 4e-6
"""Largest relative error of a float32 inner product, whatever order it is summed in."""
_NOWHERE = np.full(1, -np.inf, dtype=np.float32)  # how far ties reach in a kind whose scores are not exact
MATRIX_QUERIES = 8
"""From so many queries at once a matrix product pays."""
BLOCK_ROWS = 8192
NARROW_SHARE = 0.02
NARROW_COUNT = 4096
"""Where fewer pass than either, their stored vectors are read, all of them: cheaper than a deep search, and exact."""


def verified(artefact: Artefact, path: str) -> Path:
    """The local file, whose checksum was found right now, or earlier on this machine and it was not touched since.

    Raises CorruptError naming the file if it differs or is missing.
    """
    expected = next((item.sha256 for item in artefact.manifest.files if item.path == path), None)
    if expected is None:
        raise CorruptError(f"{artefact}: its manifest lists no file {path}. Make the index again: retort index.")
    try:
        local = artefact.local(path)
        status = local.stat()
    except (NotFoundError, FileNotFoundError):
        raise CorruptError(
            f"{artefact}: file {path} is missing from {artefact.uri}. Restore it, or delete that folder and index again."
        ) from None
    seen = [expected, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    marker = cache_root() / "verified" / f"{hashlib.sha256(str(local).encode()).hexdigest()[:32]}.json"
    with suppress(OSError, ValueError):
        if json.loads(marker.read_text()) == seen:
            return local
    with storage_errors(f"read {local}"), local.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != expected:
        raise CorruptError(
            f"{artefact}: file {path} has checksum {found[:12]}, its manifest says {expected[:12]}. "
            f"Restore {local}, or delete {artefact.uri} and index again."
        )
    with suppress(OSError):  # a read-only cache: hashed anew by each process
        marker.parent.mkdir(parents=True, exist_ok=True)
        temporary = marker.with_name(f"{marker.stem}.{uuid.uuid4().hex[:8]}.part")
        temporary.write_text(json.dumps(seen))
        temporary.replace(marker)
    return local


def open_faiss_file(path: Path, what: str) -> Any:
    """Read a FAISS file, mapped where its kind allows. CorruptError if FAISS cannot read it."""
    try:
        # Not downcast: read_index does that, and a second one would be a view of an object nobody holds.
        return faiss.read_index(os.fspath(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise CorruptError(f"{what}: FAISS {faiss.__version__} cannot read {path}: {faiss_reason(error)}.") from None


def write_faiss_file(index: Any, path: Path) -> None:
    """Write a FAISS file. OSError where FAISS could not, such as on a full disk."""
    try:
        faiss.write_index(index, os.fspath(path))
    except RuntimeError as error:
        code = errno.ENOSPC if os.strerror(errno.ENOSPC) in str(error) else errno.EIO
        raise OSError(code, faiss_reason(error)) from None


class Shard:
    """An open shard; `search` gives rows of the whole index."""

    def __init__(
        self,
        path: Path,
        what: str,
        *,
        first_row: int,
        count: int,
        dimension: int,
        exact: bool,
        settings: Mapping[str, int],
        rows: NDArray[np.int64] | None = None,
        store: VectorStore | None = None,
    ) -> None:
        """Map the (verified) file; CorruptError if it holds something else than index.json says.

        Args:
            rows: [count] corpus row of each position, -1 for what is deleted or replaced; None: first_row + position.
            store: all vectors by corpus row, for a kind that keeps only codes; where few may be found, these are read.
        """
        self._index = open_faiss_file(path, what)
        if (self._index.ntotal, self._index.d) != (count, dimension):
            raise CorruptError(
                f"{what} holds {self._index.ntotal} vectors of {self._index.d} dimensions; index.json says {count} of {dimension}."
            )
        self.look(settings)
        self.first_row, self.count, self._exact, self._store = first_row, count, exact, store
        self.size_bytes = path.stat().st_size
        self.mapped = "FastScan" not in type(self._index).__name__
        self._bytes = _stored_vectors(self._index)  # None where the kind keeps only codes
        if rows is not None and rows.shape != (count,):
            raise CorruptError(
                f"{what}: its map of rows has shape {list(rows.shape)}, index.json says {count} vectors."
            )
        self._rows = rows
        self._open = None if rows is None else _unless_all(rows >= 0)

    def search(self, vectors: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None) -> Hits:
        """The k best rows, more where they may tie, unsorted; the calling thread's FAISS thread count is used.

        `allowed` [rows of the corpus] says which may be found; None: all but deleted and hidden ones.
        """
        passing = self._open if allowed is None else self._narrowed(allowed)
        available = self.count if passing is None else passing.count
        if not available:
            return Hits(np.zeros((len(vectors), 0), dtype=np.float32), np.zeros((len(vectors), 0), dtype=np.int64))
        wanted = min(k + MARGIN, available)
        hits, reach = self._candidates(vectors, wanted, passing)
        if not self._exact:
            return hits
        # Exact kinds promise that nothing better was missed, so they look at how far ties reach.
        open_ = np.flatnonzero(reach >= _kth(hits.scores, k))
        while len(open_) and wanted < available:
            wanted = min(4 * wanted, available)
            deeper, reach = self._candidates(vectors[open_], wanted, passing)
            hits = _widened(hits, wanted)
            hits.scores[open_], hits.rows[open_] = deeper.scores, deeper.rows
            open_ = open_[reach >= _kth(deeper.scores, k)]
        return hits

    def look(self, settings: Mapping[str, int]) -> None:
        """Set how far searches look: nprobe or efSearch; other settings are not a shard's."""
        for name in WIDTHS:
            if name in settings:
                faiss.ParameterSpace().set_index_parameter(self._index, name, settings[name])

    def hiding(self, hidden: NDArray[np.bool_]) -> Self:
        """This shard, its open file shared, without the rows that are true in `hidden` [rows of the corpus]."""
        view = copy.copy(self)
        view._open = self._narrowed(~hidden)
        return view

    def _narrowed(self, allowed: NDArray[np.bool_]) -> Passing | None:
        mask = self._of_corpus(allowed)
        if self._open is not None:
            mask = mask & self._open.mask
        return _unless_all(mask)

    def _of_corpus(self, values: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Values [rows of the corpus] by position; a position without a row reads some other row's."""
        return (
            values[self.first_row : self.first_row + self.count]
            if self._rows is None
            else values[np.asarray(self._rows)]
        )

    def _candidates(
        self, vectors: NDArray[np.float32], wanted: int, passing: Passing | None
    ) -> tuple[Hits, NDArray[np.float32]]:
        """The `wanted` best rows of what passes, and per query the highest score that one not among them may have."""
        narrow = passing is not None and (passing.share < NARROW_SHARE or passing.count < NARROW_COUNT)
        matrix = self._exact and len(vectors) >= MATRIX_QUERIES
        if self._bytes is not None and (matrix or narrow):
            positions = None if passing is None else passing.positions
            scores, rows = best_rows(vectors, _aligned_blocks(self._bytes, positions), wanted)
            rows = rows if positions is None else positions[rows]
        elif self._store is not None and narrow and passing is not None:
            scores, rows = best_rows(vectors, self._stored_blocks(self._store, passing.positions), wanted)
            rows = passing.positions[rows]
        elif passing is not None:
            scores, rows = search_passing(self._index, vectors, wanted, passing, narrow=narrow)
        else:
            scores, rows = self._index.search(vectors, wanted)
        available = self.count if passing is None else passing.count
        reach = _NOWHERE
        if self._bytes is not None:
            reach = np.full(len(vectors), -np.inf, dtype=np.float32)
            for query, vector in enumerate(vectors):
                found = rows[query] >= 0
                stored = self._bytes[rows[query, found]].view(np.float32)  # [found, dim], copied and so aligned
                scores[query, found] = exact_scores(stored, vector)
                if wanted < available and found.any():
                    longest = np.sqrt(np.einsum("nd,nd->n", stored, stored).max() * np.dot(vector, vector))
                    reach[query] = scores[query, found].min() + ROUNDING * longest
        named = self._corpus_rows(rows)
        if len(rows) != 1 or rows[0, -1] < 0:  # missing ones are last
            missing = rows < 0
            scores, named = np.where(missing, np.float32(-np.inf), scores), np.where(missing, -1, named)
        return Hits(scores, named), reach

    def _corpus_rows(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return positions + self.first_row if self._rows is None else np.asarray(self._rows)[positions]

    def _stored_blocks(
        self, store: VectorStore, positions: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        for start in range(0, len(positions), BLOCK_ROWS):
            yield start, store.rows(self._corpus_rows(positions[start : start + BLOCK_ROWS]))


def _unless_all(mask: NDArray[np.bool_]) -> Passing | None:
    return None if mask.all() else Passing(np.array(mask))


def exact_scores(stored: NDArray[np.float32], vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inner products [n] of stored vectors [n, dim] with one query [dim], each summed in one fixed order.

    FAISS scores many queries at once by a matrix product, whose last bits depend on the batch. Equal passages would then
    change places between a batch job and a live query, and between one shard and two.
    """
    scores: NDArray[np.float32] = np.einsum("nd,d->n", stored, vector)
    return scores


def _kth(scores: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """The k-th best score of each query, -inf where there are fewer."""
    if scores.shape[1] < k:
        return np.full(len(scores), -np.inf, dtype=np.float32)
    return np.partition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k]


def _widened(hits: Hits, width: int) -> Hits:
    extra = ((0, 0), (0, width - hits.scores.shape[1]))
    return Hits(np.pad(hits.scores, extra, constant_values=-np.inf), np.pad(hits.rows, extra, constant_values=-1))


def _stored_vectors(index: Any) -> NDArray[np.uint8] | None:
    """The float32 vectors inside a flat or HNSW-flat index as bytes [count, 4 dim], not copied (a mapped file may not be aligned)."""
    storage = faiss.downcast_index(index.storage) if hasattr(index, "storage") else index
    if not isinstance(storage, faiss.IndexFlat) or not storage.ntotal:
        return None
    flat: NDArray[np.uint8] = faiss.rev_swig_ptr(storage.codes.data(), storage.ntotal * storage.d * 4)
    return flat.reshape(storage.ntotal, storage.d * 4)


def _aligned_blocks(
    stored: NDArray[np.uint8], positions: NDArray[np.int64] | None
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """All vectors, or those at `positions`, in blocks; numbered by their place among them."""
    for start in range(0, len(stored) if positions is None else len(positions), BLOCK_ROWS):
        stop = start + BLOCK_ROWS
        yield (
            start,
            (stored[start:stop].copy() if positions is None else stored[positions[start:stop]]).view(np.float32),
        )
