"""A look: how well an encoder finds what is relevant, per query, in every cell and level of the guard.

A relevant passage's rank is 1 + the candidates that score higher (of equal scores, those of a lower row), so no ranking is
made: only counting, over blocks of scores in bounded memory. From the ranks: MRR, nDCG (gain = grade) and recall, all at 10, as
`metrics/measures.py` defines them.

Neighbours: `guard_data.py` holds what is read, `judging.py` compares two looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from retort.errors import CorruptError
from retort.indexing.vectors import as_float32
from retort.models.dual_encoder import DualEncoder
from retort.tuning.guard_data import ALL, Cell, GuardData, Kind

__all__ = ["MEASURES", "Line", "Look", "Looker", "Values"]

MEASURES: Final = ("mrr@10", "ndcg@10", "recall@10")
CUTOFF: Final = 10
_CACHE_BYTES: Final = 1 << 30  # float32 passages kept between looks, if all of them fit in here
_NUMBERS: Final = 1 << 22  # scores held at a time
_ROWS: Final = 65536  # passages converted to float32 at a time where they do not fit

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """One cell at one level: which entries of the guard take part."""

    cell: Cell
    level: str
    entries: NDArray[np.int64]


@dataclass(frozen=True)
class Values:
    """What was measured on one line, [queries, measures] in the order of MEASURES."""

    set: str
    language: str
    kind: Kind
    level: str
    values: Floats

    @property
    def mrr(self) -> Floats:
        """Reciprocal rank of each query's first relevant passage, 0 beyond 10; [queries]."""
        return self.values[:, 0]


@dataclass(frozen=True)
class Look:
    """Everything measured at one moment. Looks of one guard have the same queries in the same order."""

    guard: str  # digest of the guard's data
    lines: tuple[Values, ...]

    @property
    def target(self) -> float | None:
        """Mean MRR@10 of the tuned task; None without one."""
        values = self.target_values
        return None if values is None else float(values.mean())

    @property
    def target_values(self) -> Floats | None:
        """Reciprocal ranks of the tuned task's queries, [queries]."""
        return next((line.mrr for line in self.lines if line.kind == "target"), None)

    def means(self) -> list[dict[str, Any]]:
        """One row per set, language, kind and level: queries and the mean of each measure."""
        return [
            {
                "set": line.set,
                "language": line.language,
                "kind": line.kind,
                "level": line.level,
                "queries": len(line.values),
                **{name: float(line.values[:, i].mean()) for i, name in enumerate(MEASURES)},
            }
            for line in self.lines
        ]

    def to_json(self) -> dict[str, Any]:
        """As JSON values; `from_json` gives back exactly the same numbers."""
        return {
            "guard": self.guard,
            "lines": [
                {
                    "set": line.set,
                    "language": line.language,
                    "kind": line.kind,
                    "level": line.level,
                    **{name: line.values[:, i].tolist() for i, name in enumerate(MEASURES)},
                }
                for line in self.lines
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave; CorruptError for anything else."""
        try:
            return cls(
                guard=value["guard"],
                lines=tuple(
                    Values(
                        set=line["set"],
                        language=line["language"],
                        kind=line["kind"],
                        level=line["level"],
                        values=np.array([line[name] for name in MEASURES], dtype=np.float64).T,
                    )
                    for line in value["lines"]
                ),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptError(
                f"This is no look of the guard: {error!r}. Delete its file and run the same command again."
            ) from None


class Looker:
    """Takes looks over one guard's data; keeps the passages as float32 between looks where they fit."""

    def __init__(self, data: GuardData, cache_bytes: int = _CACHE_BYTES, numbers: int = _NUMBERS) -> None:
        """Take the data and how much memory to use."""
        self._data, self._numbers = data, numbers
        self._keeps = data.vectors.size * 4 <= cache_bytes
        self._cached: dict[tuple[torch.device, tuple[int, int]], Tensor] = {}
        cells: dict[tuple[int, int], list[Cell]] = {}
        for cell in data.cells:
            cells.setdefault(cell.block, []).append(cell)
        # Of each block, the entries that search it.
        self._entries = {
            block: np.concatenate([np.arange(*cell.entries) for cell in found]) for block, found in cells.items()
        }

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """Every cell at every level at which at least one of its queries takes part."""
        found = []
        for cell in self._data.cells:
            entries = np.arange(*cell.entries)
            found.append(Line(cell, ALL, entries))
            for column, level in enumerate(self._data.levels if cell.kind != "target" else ()):
                taking_part = entries[self._data.entry_codes[entries, column] >= 0]
                if len(taking_part):
                    found.append(Line(cell, level, taking_part))
        return tuple(found)

    def look(self, encoder: DualEncoder, rank: int = 0, world: int = 1) -> Look:
        """Measure the encoder. Each worker encodes and ranks its share of the queries; all get the same look."""
        values = torch.from_numpy(self._measured(encoder, rank, world))
        if world > 1:
            # Each number is there once, and zero on all other workers: the sum is that number itself.
            on_device = values.to(encoder.device)
            dist.all_reduce(on_device)
            values = on_device.cpu()
        measured = values.numpy()  # [entries, 1 + levels, measures]
        columns = {level: column for column, level in enumerate((ALL, *self._data.levels))}
        return Look(
            guard=self._data.digest,
            lines=tuple(
                Values(
                    line.cell.set,
                    line.cell.language,
                    line.cell.kind,
                    line.level,
                    measured[line.entries, columns[line.level]],
                )
                for line in self.lines
            ),
        )

    def _measured(self, encoder: DualEncoder, rank: int, world: int) -> Floats:
        """Values of this worker's queries, zero elsewhere: [entries, 1 + levels, measures]."""
        data = self._data
        found = np.zeros((len(data.entries), 1 + len(data.levels), len(MEASURES)))
        mine = np.arange(rank, len(data.offsets) - 1, world)
        vectors = torch.from_numpy(encoder.encode_tokens(data.sequences(mine))).to(encoder.device)  # [mine, dim]
        for block, entries in self._entries.items():
            own = entries[data.entries[entries, 0] % world == rank]
            step = max(1, self._numbers // max(1, block[1] - block[0]))
            for start in range(0, len(own), step):
                some = own[start : start + step]
                places = torch.from_numpy(data.entries[some, 0] // world).to(vectors.device)
                with torch.inference_mode():
                    found[some] = self._values_of(some, self._scores(vectors[places], block), block)
        return found

    def _scores(self, queries: Tensor, block: tuple[int, int]) -> Tensor:
        """[queries, dim] against the passages of a block: [queries, passages]."""
        if self._keeps:
            key = (queries.device, block)
            if key not in self._cached:
                self._cached[key] = self._passages(*block, queries.device)
            return queries @ self._cached[key].T
        start, stop = block
        scores = queries.new_empty((len(queries), stop - start))
        for first in range(start, stop, _ROWS):
            last = min(first + _ROWS, stop)
            scores[:, first - start : last - start] = queries @ self._passages(first, last, queries.device).T
        return scores

    def _passages(self, start: int, stop: int, device: torch.device) -> Tensor:
        return torch.from_numpy(as_float32(self._data.vectors[start:stop], self._data.similarity)).to(device)

    def _values_of(self, entries: NDArray[np.int64], scores: Tensor, block: tuple[int, int]) -> Floats:
        """Values of these entries from their scores [entries, passages]: [entries, 1 + levels, measures]."""
        data = self._data
        first, last = data.pair_offsets[entries], data.pair_offsets[entries + 1]
        asking = np.repeat(np.arange(len(entries)), last - first)  # [pairs] number of the entry in `entries`
        pairs = np.concatenate([np.arange(*ends) for ends in zip(first, last, strict=True)])
        places, grades = data.pairs[pairs, 0].astype(np.int64), data.pairs[pairs, 1].astype(np.float64)
        codes = data.codes[block[0] : block[1]]  # [passages, levels]
        asked = data.entry_codes[entries]  # [entries, levels]
        ranks = self._ranks(scores, asking, places, codes, asked)  # [pairs, 1 + levels]
        # At a level, a relevant passage of another category is no candidate.
        counts = np.ones(ranks.shape, dtype=bool)
        counts[:, 1:] = (codes[places] == asked[asking]) & (asked[asking] >= 0)
        found = np.zeros((len(entries), ranks.shape[1], len(MEASURES)))
        for column in range(ranks.shape[1]):
            there = counts[:, column]
            found[:, column] = _measures(asking[there], ranks[there, column], grades[there], len(entries))
        return found

    def _ranks(
        self,
        scores: Tensor,
        asking: NDArray[np.int64],
        places: NDArray[np.int64],
        codes: NDArray[np.int32],
        asked: NDArray[np.int32],
    ) -> NDArray[np.int64]:
        """Rank of each relevant passage among all passages, then at each level: [pairs, 1 + levels]."""
        device, passages = scores.device, scores.shape[1]
        rows = torch.arange(passages, device=device)
        categories = torch.from_numpy(codes.T.copy()).to(device)  # [levels, passages]
        queries_of, places_of = torch.from_numpy(asking).to(device), torch.from_numpy(places).to(device)
        asked_in = torch.from_numpy(asked).to(device)[queries_of]  # [pairs, levels]
        ranks = torch.empty((len(asking), 1 + codes.shape[1]), dtype=torch.int64, device=device)
        step = max(1, self._numbers // passages)
        for start in range(0, len(asking), step):
            part = slice(start, start + step)
            at = places_of[part, None]
            others = scores[queries_of[part]]  # [part, passages]
            own = others.gather(1, at)
            above = (others > own) | ((others == own) & (rows < at))
            ranks[part, 0] = 1 + above.sum(dim=1)
            for level, category in enumerate(categories):
                ranks[part, 1 + level] = 1 + (above & (category == asked_in[part, level, None])).sum(dim=1)
        return ranks.cpu().numpy()


def _measures(asking: NDArray[np.int64], ranks: NDArray[np.int64], grades: Floats, queries: int) -> Floats:
    """MRR, nDCG and recall at 10 from the ranks of relevant passages [pairs]: [queries, measures]; 0 for a query without any."""
    within = ranks <= CUTOFF
    first = np.zeros(queries)
    np.maximum.at(first, asking, np.where(within, 1.0 / ranks, 0.0))
    gained = np.bincount(asking, weights=np.where(within, grades / np.log2(ranks + 1.0), 0.0), minlength=queries)
    order = np.lexsort((-grades, asking))  # the best possible ranking: by grade
    sorted_asking = asking[order]
    best_ranks = np.arange(len(order)) - np.searchsorted(sorted_asking, sorted_asking) + 1
    best_gains = np.where(best_ranks <= CUTOFF, grades[order] / np.log2(best_ranks + 1.0), 0.0)
    best = np.bincount(sorted_asking, weights=best_gains, minlength=queries)
    relevant = np.bincount(asking, minlength=queries)
    found = np.bincount(asking, weights=within, minlength=queries)
    return np.stack([first, gained / np.where(best > 0, best, 1.0), found / np.maximum(relevant, 1)], axis=1)
