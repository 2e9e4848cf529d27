"""Seed after seed of `distillation.py`: which are to be gone on with, and what each cell found written down at once.

The first seed of the plan searches weights, temperatures and rate for all; BM25 and the base have no seed, so the others take their
places from its record, too. But for that a seed needs nothing of another one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from distillation_data import Data
from distillation_grid import Grid
from distillation_plan import BEST, ROWS, Plan
from distillation_records import UNSEEDED, Cell, SeedRecord, begin, read_records
from harness import console

from retort.store import Artefact

__all__ = ["go_on"]


def go_on(plan: Plan, store: str, folder: Path, seeds: Sequence[int], systems: Sequence[str], minutes: float) -> None:
    """Make what is missing of these seeds and systems; no cell is begun after so many minutes.

    Raises:
        SystemExit: a seed whose first seed has no whole record.
    """
    end = time.monotonic() + minutes * 60
    data = Data(store, plan)
    records = read_records(folder, plan, data.tests)
    for seed in seeds:
        if seed in records and records[seed].complete:
            console.print(f"Seed {seed} is recorded.")
            continue
        first = records.get(plan.first) if seed != plan.first else None
        if seed != plan.first and (first is None or not first.complete):
            raise SystemExit(f"Seed {seed} learns with the values that seed {plan.first}'s search found, of which there is no whole record: run --seeds {plan.first} first.")  # fmt: skip
        grid = Grid(data, seed, first.search if first else None)
        if time.monotonic() > end or not _one_seed(grid, folder, records, first, systems, end):
            console.print("The minutes are over: the same command goes on.")
            return


def _one_seed(
    grid: Grid,
    folder: Path,
    records: dict[int, SeedRecord],
    first: SeedRecord | None,
    systems: Sequence[str],
    end: float,
) -> bool:
    """Whether these systems of the seed are recorded now."""
    began = time.monotonic()
    teacher = grid.teacher
    told = {"digest": teacher.digest, "metrics": teacher.metrics}
    record = begin(records.get(grid.seed), grid.plan, grid.data.tests, grid.seed, told, time.monotonic() - began)
    if first is not None:
        record.cells |= {name: first.cells[name].model_copy(update={"seconds": 0.0}) for name in UNSEEDED}
    records[grid.seed] = record
    rows = {recipe.name: recipe for recipe in ROWS}
    for name, work in grid.cells.items():
        if name in record.cells or name not in systems:
            continue
        if time.monotonic() > end:
            return False
        console.print(f"[bold]seed {grid.seed}: {name}[/bold]")
        began = time.monotonic()
        cell = Cell(places=work())
        if name in rows:
            record.search[name] = grid.values(rows[name])
            cell.step_s = _step_seconds([one.student for one in grid.rounds(rows[name])])
        cell.seconds = round(time.monotonic() - began, 1)
        record.cells[name] = cell
        if name == BEST.name:
            record.filtered = grid.filtered()
        console.print(f"  written: {record.save(folder)}")
    return True


def _step_seconds(students: Sequence[Artefact]) -> float:
    found = [one.metrics["training_s"] / one.metrics["steps"] for one in students]
    return round(statistics.fmean(found), 4)
