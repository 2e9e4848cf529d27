"""What the training loop reads: tokens and row numbers in memory-mapped arrays, made once per run by `prepare.py`.

query_tokens, passage_tokens   token ids of each text (training queries first, then the held-out ones)
positives, pool                passage rows per training query (see `groups.py`)
held_out, grades               passage rows of each held-out query's list, and the grade of each
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retort.teaching.groups import Ragged
from retort.teaching.pairs import PairLayout

__all__ = ["TrainingSet"]


@dataclass(frozen=True)
class TrainingSet:
    """Arrays of one training run; see the module docstring."""

    query_tokens: Ragged
    passage_tokens: Ragged
    positives: Ragged
    pool: Ragged
    held_out: Ragged
    grades: Ragged
    query_ids: list[str]
    layout: PairLayout
    first_stage: float | None = None  # nDCG@10 of the held-out lists as the candidates' own search ranked them

    def pair_tokens(self, query: int, passage: int) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """Return the tokens of a query row and of a passage row."""
        return self.query_tokens[query], self.passage_tokens[passage]

    def pair_lengths(self, queries: NDArray[np.integer], passages: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the tokens of each pair, special tokens included; [pairs]."""
        return self.layout.lengths(self.query_tokens.lengths(queries), self.passage_tokens.lengths(passages))

    @property
    def training_queries(self) -> int:
        """Number of queries that are trained on; held-out query rows start here."""
        return len(self.positives)

    def save(self, folder: Path) -> None:
        """Write the arrays under `folder`; `done.json` last, so that a half-written set is never opened."""
        folder.mkdir(parents=True, exist_ok=True)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Ragged):
                np.save(folder / f"{field.name}.values.npy", value.values)
                np.save(folder / f"{field.name}.offsets.npy", value.offsets)
        temporary = folder / "done.json.part"
        temporary.write_text(
            json.dumps({"query_ids": self.query_ids, "layout": asdict(self.layout), "first_stage": self.first_stage})
        )
        temporary.replace(folder / "done.json")

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Say whether a whole set lies under `folder`."""
        return (folder / "done.json").exists()

    @classmethod
    def open(cls, folder: Path) -> TrainingSet:
        """Memory-map the arrays under `folder`."""
        rest = json.loads((folder / "done.json").read_text())
        layout: dict[str, Any] = rest["layout"]
        layout = {name: tuple(value) if isinstance(value, list) else value for name, value in layout.items()}

        def read(name: str) -> Ragged:
            values = np.load(folder / f"{name}.values.npy", mmap_mode="r")
            return Ragged(values=values, offsets=np.load(folder / f"{name}.offsets.npy", mmap_mode="r"))

        arrays = {
            name: read(name) for name in ("query_tokens", "passage_tokens", "positives", "pool", "held_out", "grades")
        }
        return cls(**arrays, query_ids=rest["query_ids"], layout=PairLayout(**layout), first_stage=rest["first_stage"])
