"""The language guard: what tuning on one language does to all others, looked at during training.

    prepare_guard(settings, sets, target, base, folder, seed)    once, before training: `guard_sets.py`
    guard = Guard.open(folder)                                   in each worker
    before = guard.look(base)                                    `looks.py`
    guard.judge(before, guard.look(tuned), looks=4).all_kept     `judging.py`

No Ray in here; torch's process group is used where there is one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from retort.models.dual_encoder import DualEncoder
from retort.tuning.guard_data import GuardData
from retort.tuning.guard_sets import prepare_guard
from retort.tuning.guard_settings import GuardSettings
from retort.tuning.judgement import GroupState, Judgement
from retort.tuning.judging import judge
from retort.tuning.looks import Line, Look, Looker

__all__ = ["GroupState", "Guard", "GuardSettings", "Judgement", "Look", "prepare_guard"]


class Guard:
    """Looks at an encoder in every guarded language, and judges what changed."""

    def __init__(self, data: GuardData) -> None:
        """Take mapped data; use `open`."""
        self._data = data
        self._looker = Looker(data)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Map what `prepare_guard` wrote. CorruptError where it is not whole."""
        return cls(GuardData.open(folder))

    @property
    def settings(self) -> GuardSettings:
        """As it was prepared."""
        return self._data.settings

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the sets: languages without queries, samples, queries left out."""
        return self._data.notes

    @property
    def lines(self) -> tuple[Line, ...]:
        """What one look measures: every set, language, kind and level."""
        return self._looker.lines

    @property
    def languages(self) -> list[str]:
        """Languages with at least one query, guarded or not."""
        return sorted({cell.language for cell in self._data.cells if cell.kind != "target"})

    @property
    def has_target(self) -> bool:
        """Whether the tuned task is measured."""
        return any(cell.kind == "target" for cell in self._data.cells)

    @property
    def texts(self) -> int:
        """Distinct query texts that one look encodes."""
        return len(self._data.offsets) - 1

    def look(self, encoder: DualEncoder, rank: int = 0, world: int = 1) -> Look:
        """Measure every query. With `world` > 1 each worker calls this, does its share, and gets the same look."""
        return self._looker.look(encoder, rank, world)

    def judge(self, before: Look, after: Look, looks: int) -> Judgement:
        """Compare two looks; `looks` judgements are planned over everything that is chosen from. InputError for another guard's look."""
        return judge(self._data, self._looker.lines, before, after, looks)
