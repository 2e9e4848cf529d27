"""Which passages each cell's queries search, and everything as arrays: the second half of `guard_sets.py`.

A block is shared by all cells that search the same passages: every cross-language cell of one corpus has one block.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retort.errors import InputError
from retort.tuning.collection import Collection, language_tag
from retort.tuning.guard_data import Cell, GuardData, Kind, new_vectors
from retort.tuning.guard_settings import GuardSettings

__all__ = ["LEAST_CANDIDATES", "PIVOT", "Asked", "AskedCell", "lay_out"]

LEAST_CANDIDATES = 5
"""A category with fewer passages tells nothing about a query in it."""
PIVOT = "*"
"""The block of all passages in the pivot language; other blocks are named by their language."""

Block = tuple[str, str]
"""(digest of the embeddings, language or PIVOT)."""


@dataclass
class AskedCell:
    """A cell in the making: numbers of its queries, and (corpus row, grade) of their relevant passages."""

    set: str
    language: str
    kind: Kind
    collection: Collection
    block_name: str
    queries: list[int] = field(default_factory=list)
    relevant: list[list[tuple[int, int]]] = field(default_factory=list)

    @property
    def block(self) -> Block:
        """The block that its queries search."""
        return self.collection.embeddings.digest, self.block_name


@dataclass
class Asked:
    """All cells, and the queries that they name by number."""

    cells: list[AskedCell] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    clusters: list[str] = field(default_factory=list)
    texts: list[int] = field(default_factory=list)  # of each query: its number among the distinct token sequences
    sequences: dict[tuple[int, ...], int] = field(default_factory=dict)

    def add_query(self, query_id: str, cluster: str, tokens: Sequence[int]) -> int:
        """Register a query; its number."""
        self.ids.append(query_id)
        self.clusters.append(cluster)
        self.texts.append(self.sequences.setdefault(tuple(tokens), len(self.sequences)))
        return len(self.ids) - 1


@dataclass(frozen=True)
class _Chosen:
    """Corpus rows of a block, sorted, and their categories, int32 [rows, levels]."""

    collection: Collection
    rows: NDArray[np.int64]
    codes: NDArray[np.int32]


def lay_out(settings: GuardSettings, asked: Asked, dimension: int, seed: int, folder: Path) -> GuardData:
    """Choose the passages of each block, and lay out arrays; the vectors are written below `folder`.

    Raises:
        InputError: a level that no corpus has.
    """
    blocks = _blocks(settings, asked, seed)
    _check_levels(settings.levels, list(blocks.values()))
    starts = dict(zip(blocks, np.cumsum([0, *(len(block.rows) for block in blocks.values())]).tolist(), strict=False))
    cells: list[Cell] = []
    entries: list[tuple[int, int]] = []
    entry_codes: list[NDArray[np.int32]] = []
    pairs: list[tuple[int, int]] = []
    pair_offsets = [0]
    for cell in asked.cells:
        block, begin = blocks[cell.block], len(entries)
        for number, relevant in zip(cell.queries, cell.relevant, strict=True):
            places = np.searchsorted(block.rows, [row for row, _ in relevant])
            # The most relevant passage says in which category the query is asked; of equals, the first labelled.
            best = max(range(len(relevant)), key=lambda i: relevant[i][1])
            entries.append((asked.texts[number], number))
            entry_codes.append(block.codes[places[best]].copy())
            pairs += [(int(place), grade) for place, (_, grade) in zip(places, relevant, strict=True)]
            pair_offsets.append(len(pairs))
        _leave_out_small(block.codes, entry_codes[begin:])
        start = starts[cell.block]
        cells.append(Cell(cell.set, cell.language, cell.kind, (start, start + len(block.rows)), (begin, len(entries))))
    lengths = [len(ids) for ids in asked.sequences]
    similarities = {block.collection.vectors.facts.similarity for block in blocks.values()}
    assert len(similarities) <= 1, similarities  # one passage space, one similarity
    vectors = new_vectors(folder, sum(len(block.rows) for block in blocks.values()), dimension)
    for key, block in blocks.items():
        vectors[starts[key] : starts[key] + len(block.rows)] = block.collection.vectors.half[block.rows]
    return GuardData(
        settings=settings,
        similarity=similarities.pop() if similarities else "cosine",
        levels=settings.levels,
        cells=tuple(cells),
        query_ids=tuple(asked.ids),
        clusters=tuple(asked.clusters),
        notes=tuple(asked.notes),
        vectors=vectors,
        codes=np.concatenate([np.zeros((0, len(settings.levels)), np.int32), *(b.codes for b in blocks.values())]),
        tokens=np.fromiter((i for ids in asked.sequences for i in ids), dtype=np.int32, count=sum(lengths)),
        offsets=np.cumsum([0, *lengths], dtype=np.int64),
        entries=np.array(entries, dtype=np.int32).reshape(-1, 2),
        entry_codes=np.array(entry_codes, dtype=np.int32).reshape(len(entries), len(settings.levels)),
        pairs=np.array(pairs, dtype=np.int32).reshape(-1, 2),
        pair_offsets=np.array(pair_offsets, dtype=np.int64),
    )


def _blocks(settings: GuardSettings, asked: Asked, seed: int) -> dict[Block, _Chosen]:
    """The passages of each block: all of its language, or the relevant ones and a sample."""
    wanted: dict[Block, set[int]] = {}
    collections: dict[Block, Collection] = {}
    for cell in asked.cells:
        wanted.setdefault(cell.block, set()).update(row for relevant in cell.relevant for row, _ in relevant)
        collections[cell.block] = cell.collection
    blocks = {}
    for key, relevant in wanted.items():
        collection = collections[key]
        language = language_tag(settings.pivot) if key[1] == PIVOT else key[1]
        rows = collection.pivot_rows if key[1] == PIVOT else collection.rows_in(language)
        if len(rows) > settings.max_passages:
            everything = len(rows)
            rows = _sampled(rows, relevant, settings.max_passages, [seed, zlib.crc32(language.encode())])
            asked.notes.append(
                f"{collection.corpus.name}, {language}: queries search {len(rows):,} of {everything:,} passages (all relevant "
                "ones and a random sample), so figures are higher than over the whole collection."
            )
        blocks[key] = _Chosen(collection, rows, _codes(collection, rows, settings.levels))
    return blocks


def _sampled(rows: NDArray[np.int64], relevant: Iterable[int], most: int, seed: list[int]) -> NDArray[np.int64]:
    needed = np.array(sorted(relevant), dtype=np.int64)
    rest = np.setdiff1d(rows, needed, assume_unique=True)
    more = min(len(rest), max(0, most - len(needed)))
    chosen = np.random.default_rng(seed).choice(rest, more, replace=False)
    return np.sort(np.concatenate([needed, chosen]))


def _codes(collection: Collection, rows: NDArray[np.int64], levels: Sequence[str]) -> NDArray[np.int32]:
    """Categories as numbers, int32 [rows, levels]; -1 for a passage without one."""
    found = np.full((len(rows), len(levels)), -1, dtype=np.int32)
    for column, level in enumerate(levels):
        numbers: dict[str, int] = {}
        for place, value in enumerate(collection.categories(level, rows)):
            if value is not None:
                found[place, column] = numbers.setdefault(value, len(numbers))
    return found


def _check_levels(levels: Sequence[str], blocks: Sequence[_Chosen]) -> None:
    """A misspelt level would be a guard that watches nothing."""
    for column, level in enumerate(levels):
        if blocks and not any((block.codes[:, column] >= 0).any() for block in blocks):
            fields = sorted({name for block in blocks for name in block.collection.known_fields()})
            raise InputError(
                f"guard.levels: no corpus of the guard has a field {level!r}; there are {', '.join(fields)}. "
                "Name fields of these, broad to narrow."
            )


def _leave_out_small(block_codes: NDArray[np.int32], entry_codes: Sequence[NDArray[np.int32]]) -> None:
    """Queries whose category holds too few candidates take no part at that level: their code becomes -1, in place."""
    for level in range(block_codes.shape[1]):
        column = block_codes[:, level]
        sizes = np.bincount(column[column >= 0], minlength=1)
        for codes in entry_codes:
            if codes[level] >= 0 and sizes[codes[level]] < LEAST_CANDIDATES:
                codes[level] = -1
