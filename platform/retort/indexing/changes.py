"""What changed between two corpora, passage by passage: found by content hash, confirmed by the text itself.

    matching_rows(new, old)    for each row of the new corpus a row of the old one with the same text, or -1
    find_changes(new, old)     the same by passage id: added, changed, deleted, unchanged

A content hash has 64 bits, so a match is believed only when title and text are equal too. Everything but titles and texts
(language, section, fields) may differ: vectors do not depend on it, and hits show the new corpus's.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from retort.corpus.lookup import Passages

__all__ = ["Changes", "find_changes", "matching_rows"]

HASH_CHARS = 16


@dataclass(frozen=True)
class Changes:
    """Passage ids by what became of them from the old corpus to the new one."""

    added: list[str]
    changed: list[str]
    deleted: list[str]
    unchanged: int

    @property
    def total(self) -> int:
        """How many passages are not as they were."""
        return len(self.added) + len(self.changed) + len(self.deleted)

    def told(self) -> str:
        """For people: "3 added, 1 changed, 2 deleted, 94 unchanged"."""
        counts = [(len(self.added), "added"), (len(self.changed), "changed"), (len(self.deleted), "deleted")]
        return ", ".join(f"{count:,} {what}" for count, what in [*counts, (self.unchanged, "unchanged")])


def matching_rows(new: Passages, old: Passages) -> NDArray[np.int64]:
    """[rows of new]: a row of `old` with the same title and text, that of the same passage id if it has them; -1 without one."""
    by_id = _rows_by_id(new, old)
    new_hashes, old_hashes = _hashes(new), _hashes(old)
    matches = np.full(len(new), -1, dtype=np.int64)
    if not len(old):
        return matches
    order = np.argsort(old_hashes, kind="stable")
    places = np.minimum(np.searchsorted(old_hashes[order], new_hashes), len(old) - 1)
    candidates = order[places]
    same_id = (by_id >= 0) & (old_hashes[by_id] == new_hashes)
    candidates[same_id] = by_id[same_id]
    rows = np.flatnonzero(old_hashes[candidates] == new_hashes)
    same = new.equal_texts(rows, old, candidates[rows])
    matches[rows[same]] = candidates[rows[same]]
    return matches


def find_changes(new: Passages, old: Passages, matches: NDArray[np.int64] | None = None) -> Changes:
    """Compare by passage id; `matches` is what `matching_rows` gave, if it is at hand."""
    if matches is None:
        matches = matching_rows(new, old)
    by_id = _rows_by_id(new, old)
    is_there = by_id >= 0
    kept = is_there & (matches == by_id)
    gone = np.ones(len(old), dtype=np.bool_)
    gone[by_id[is_there]] = False
    return Changes(
        added=new.ids_at(np.flatnonzero(~is_there)),
        changed=new.ids_at(np.flatnonzero(is_there & ~kept)),
        deleted=old.ids_at(np.flatnonzero(gone)),
        unchanged=int(kept.sum()),
    )


def _rows_by_id(new: Passages, old: Passages) -> NDArray[np.int64]:
    found = pc.index_in(new.column("passage_id"), value_set=old.column("passage_id"))
    rows: NDArray[np.int64] = pc.fill_null(found, -1).to_numpy().astype(np.int64)
    return rows


def _hashes(passages: Passages) -> NDArray[np.uint64]:
    """The content hashes as numbers; corpora of other makers may hold hashes of another length, which are hashed once more."""
    column = passages.column("content_hash")
    if not len(column):
        return np.zeros(0, dtype=np.uint64)
    lengths = pc.min_max(pc.binary_length(column)).as_py()
    if lengths == {"min": HASH_CHARS, "max": HASH_CHARS}:
        try:
            return np.concatenate([_from_hex(chunk) for chunk in column.chunks])
        except ValueError:
            pass  # not hexadecimal
    return np.array([hash_text(value) for value in column.to_pylist()], dtype=np.uint64)


def hash_text(value: str) -> int:
    """64 bits of BLAKE2 of any text."""
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "big")


def _from_hex(chunk: pa.Array) -> NDArray[np.uint64]:
    offsets = np.frombuffer(chunk.buffers()[1], dtype=np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
    characters = bytes(memoryview(chunk.buffers()[2])[int(offsets[0]) : int(offsets[-1])])
    return np.frombuffer(bytes.fromhex(characters.decode("ascii")), dtype=">u8").astype(np.uint64)
