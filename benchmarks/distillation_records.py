"""What a seed of `distillation.py` found, as a small file that outlives the machine: `seed-N.json`.

A system is kept as the PLACE of each test query's one relevant passage among the system's first 100 (0: not among them), in the
order of `distillation_tested.py`: one character a query, chr(48 + place), so that 0 to 9 read as they are. All measures
follow from places, by the library's own `evaluate`. The teacher's places are those of its sample of queries.

A record is written after every cell; processes that make other cells of a seed write the same one. A whole one stands for itself; a part of
one goes on only with the very teacher that it began with.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from distillation_plan import ROWS, Plan
from distillation_tested import Tested, digest_of
from harness import circumstances, console
from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator

from retort.metrics.measures import evaluate
from retort.store.manifest import hash_json

__all__ = ["DEPTH", "MEASURES", "SYSTEMS", "TEACHER", "Cell", "Filtered", "Scores", "SeedRecord", "begin", "places_of", "read_records", "scores_of"]  # fmt: skip

MEASURES = ("mrr@10", "ndcg@10", "recall@1", "recall@10", "recall@100")
DEPTH = 100
TEACHER = "teacher"
UNSEEDED = ("bm25", "base")
SYSTEMS = (*UNSEEDED, *(recipe.name for recipe in ROWS), TEACHER)
ZERO = ord("0")
Scores = dict[str, dict[str, float]]
"""Measure -> query -> value."""


class Cell(BaseModel):
    """One system as it was measured."""

    model_config = ConfigDict(extra="forbid")

    places: list[int]
    seconds: float = Field(0.0, description="Of wall time, what the cell made for itself included.")
    step_s: float | None = Field(None, description="Seconds of a training step of the last round.")

    @field_validator("places", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return [ord(character) - ZERO for character in value] if isinstance(value, str) else value

    @field_validator("places")
    @classmethod
    def _in_depth(cls, value: list[int]) -> list[int]:
        if not all(0 <= place <= DEPTH for place in value):
            raise ValueError(f"a place is not between 0 and {DEPTH}")
        return value

    @field_serializer("places")
    def _written(self, places: list[int]) -> str:
        return "".join(chr(ZERO + place) for place in places)


class Filtered(BaseModel):
    """How many negatives the filter judged, each pair once: all, and those that are duplicates, siblings or either."""

    model_config = ConfigDict(extra="forbid")

    dropped: dict[str, int]
    kept: dict[str, int]


class SeedRecord(BaseModel):
    """All that a report needs of one seed."""

    model_config = ConfigDict(extra="forbid")

    seed: int
    plan: dict[str, Any]
    plan_hash: str
    queries: str = Field(description="Digest of the test queries' ids in order.")
    reranked: str = Field(description="The same of the teacher's sample.")
    teacher: str = Field(description="Digest of the seed's teacher.")
    teacher_metrics: dict[str, Any]
    teacher_s: float
    machine: dict[str, Any]
    versions: dict[str, str]
    date: str
    search: dict[str, dict[str, float]] = Field(default_factory=dict, description="Row -> what its dev search found.")
    filtered: Filtered | None = None
    cells: dict[str, Cell] = Field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every system is measured."""
        return set(SYSTEMS) <= set(self.cells) and self.filtered is not None

    def save(self, folder: Path) -> Path:
        """Write it whole, with the cells that another process has written meanwhile."""
        folder.mkdir(parents=True, exist_ok=True)
        path = file_of(folder, self.seed)
        with _alone(folder):
            if path.exists():
                self._take(_read(path))
            made = path.with_suffix(".part")
            made.write_text(json.dumps(self.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
            made.replace(path)
        return path

    def _take(self, other: SeedRecord) -> None:
        """What this record lacks of one of the same plan, queries and teacher."""
        if all(getattr(self, name) == getattr(other, name) for name in ("plan_hash", "queries", "reranked", "teacher")):
            self.cells = {**other.cells, **self.cells}
            self.search = {**other.search, **self.search}
            self.filtered = self.filtered or other.filtered

    def scores(self, system: str, tests: Tested, plan: Plan) -> Scores:
        """A system's measures per query."""
        queries = tests.sample(plan.reranked_queries) if system == TEACHER else tests.ids
        return scores_of(self.cells[system].places, queries)


def file_of(folder: Path, seed: int) -> Path:
    """Where a seed's record is."""
    return folder / f"seed-{seed}.json"


def read_records(folder: Path, plan: Plan, tests: Tested) -> dict[int, SeedRecord]:
    """Seed -> record, of the plan's seeds; one of another plan or of other queries is left out, and it is said."""
    found: dict[int, SeedRecord] = {}
    asked = {"plan": hash_json(plan.as_json()), "test queries": tests.digest, "re-ranked sample": _sample(plan, tests)}
    for seed in plan.seeds:
        path = file_of(folder, seed)
        if not path.exists():
            continue
        record = _read(path)
        told = {"plan": hash_json(record.plan), "test queries": record.queries, "re-ranked sample": record.reranked}
        other = [name for name, value in asked.items() if told[name] != value]
        if other or record.seed != seed:
            console.print(f"{path} is left out: its {' and '.join(other) or 'seed'} is not that of this run.")
        else:
            found[seed] = record
    return found


def begin(
    known: SeedRecord | None, plan: Plan, tests: Tested, seed: int, teacher: Mapping[str, Any], seconds: float
) -> SeedRecord:
    """The record to go on with: the one known, if it is of this teacher ({"digest", "metrics"}), else a new one."""
    if known is not None and (known.complete or known.teacher == teacher["digest"]):
        return known
    if known is not None:
        console.print(
            f"What is recorded of seed {seed} ({len(known.cells)} cells) was learnt from another teacher: begun anew."
        )
    written = plan.as_json()
    return SeedRecord(
        seed=seed, plan=written, plan_hash=hash_json(written), queries=tests.digest, reranked=_sample(plan, tests),
        teacher=teacher["digest"], teacher_metrics=dict(teacher["metrics"]), teacher_s=round(seconds, 1), **circumstances(),
    )  # fmt: skip


def places_of(run: Mapping[str, Mapping[str, float]], qrels: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Query -> place of its one relevant passage, ties broken as the measures break them."""
    assert all(list(grades.values()) == [1] for grades in qrels.values()), "places need one relevant passage a query"
    name = f"mrr@{DEPTH}"
    found = evaluate(run, qrels, [name])[name]
    return {query: round(1 / value) if value else 0 for query, value in found.items()}


def scores_of(places: Sequence[int], queries: Sequence[str]) -> Scores:
    """The measures of each query, from its place."""
    by_place = _by_place()
    return {
        measure: {query: by_place[measure][str(place)] for query, place in zip(queries, places, strict=True)}
        for measure in MEASURES
    }


@cache
def _by_place() -> Scores:
    """Measure -> place -> value, by the library: a run for each place, with fillers round the relevant passage."""
    fillers = {f"filler-{number}": float(-number) for number in range(1, DEPTH + 1)}
    runs = {"0": fillers}
    for place in range(1, DEPTH + 1):
        runs[str(place)] = {**fillers, "relevant": 0.5 - place}
    return evaluate(runs, {place: {"relevant": 1} for place in runs}, MEASURES)


def _read(path: Path) -> SeedRecord:
    return SeedRecord.model_validate_json(path.read_text(encoding="utf-8"))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process writes records in this folder meanwhile."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # and with it the lock


def _sample(plan: Plan, tests: Tested) -> str:
    return digest_of(tests.sample(plan.reranked_queries))
