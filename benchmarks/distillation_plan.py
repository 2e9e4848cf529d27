"""The grid's rows, and how much of everything the full and the quick mode take; see `distillation.py` for the reasons."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["BEST", "FULL", "QUICK", "ROWS", "Plan", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """One row of the grid: which losses, and which filter."""

    name: str
    levels: tuple[str, ...]
    filter: str = "none"

    def settings(self, begin: Mapping[str, float]) -> dict[str, Any]:
        """The config's: weights of levels that are off are 0, the others what `begin` says or the defaults, and the dev search moves
        them. By contrast alone there is nothing to learn from a query without a label."""
        off = {f"{level}_weight": 0.0 for level in ("sentence", "word") if level not in self.levels}
        return {**(begin if self.levels else {}), **off, "use_unlabelled": bool(self.levels)}


ROWS = (
    Recipe("contrastive", ()),
    Recipe("sentence", ("sentence",)),
    Recipe("word", ("word",)),
    Recipe("both", ("sentence", "word")),
    Recipe("both_filtered", ("sentence", "word"), "dynamic"),
    Recipe("both_static", ("sentence", "word"), "static"),
)
SEARCHED = ("sentence_weight", "word_weight", "temperature", "student_temperature", "teacher_temperature", "word_temperature")  # fmt: skip
"""All but the rate: the shorter a trial, the higher a rate it prefers."""
BEST = next(recipe for recipe in ROWS if recipe.name == "both_filtered")


@dataclass(frozen=True)
class Plan:
    """Sizes of one mode."""

    passages: int | None  # of the collection; None: all
    seeds: tuple[int, ...]
    rounds: int
    taught: int  # training queries with judgements
    labelled: int  # of them those whose label students see; the others are taught by the teacher alone
    searched_part: int  # a student mines in one passage of so many, and in the taught queries' own
    mined: dict[str, int]  # candidates per query by source
    teacher_queries: int
    teacher: dict[str, Any]
    student: dict[str, Any]
    levels: dict[str, float]  # where students with a level begin to search; contrast alone does at the defaults
    search: dict[str, Any]
    dev_queries: int
    dev_pool: dict[str, int]
    backend: str  # of the vectors that systems are measured by and students mined with
    reranked_queries: int

    @property
    def first(self) -> int:
        """The seed whose dev search holds for all."""
        return self.seeds[0]

    def as_json(self) -> dict[str, Any]:
        """What a seed's record must agree on, JSON-ready: all but which further seeds there are."""
        value = {**asdict(self), "seeds": [self.first], "rows": [asdict(recipe) for recipe in ROWS]}
        found: dict[str, Any] = json.loads(json.dumps(value))
        return found


FULL = Plan(
    passages=None,
    seeds=(13, 1, 2),
    rounds=2,
    taught=1000,
    labelled=250,
    searched_part=4,
    mined={"bm25_k": 3, "dense_k": 6, "random_k": 0},
    teacher_queries=6400,
    teacher={
        "max_steps": 800, "evaluate_every": 400, "batch_queries": 8, "negatives": 3, "random_negatives": 1, "held_out_queries": 200,
        "held_out_depth": 20, "max_tokens": 112, "epochs": 2.0,
    },
    student={
        "max_steps": 100, "batch_queries": 16, "negatives": 3, "similar": 8, "max_passage_tokens": 64, "evaluate_every": 50, "epochs": 7.0,
        "learning_rate": 5e-5,
    },
    levels={
        "sentence_weight": 2.0, "word_weight": 2.0, "teacher_temperature": 8.0, "student_temperature": 0.14, "temperature": 0.12,
    },
    search={"trials": 3, "steps": 20, "reduction": 2, "fields": SEARCHED},
    dev_queries=400,
    dev_pool={"dev_pool_queries": 400, "dev_pool_passages": 800},
    backend="onnx-int8",
    reranked_queries=200,
)  # fmt: skip

QUICK = Plan(
    passages=1500,
    seeds=(13,),
    rounds=2,
    taught=200,
    labelled=50,
    searched_part=3,
    mined={"bm25_k": 2, "dense_k": 4, "random_k": 0},
    teacher_queries=400,
    teacher={
        "max_steps": 12, "evaluate_every": 12, "batch_queries": 8, "negatives": 2, "random_negatives": 1, "held_out_queries": 40,
        "held_out_depth": 10, "max_tokens": 128,
    },
    student={"max_steps": 3, "batch_queries": 16, "negatives": 2, "similar": 4, "max_passage_tokens": 64, "evaluate_every": 3},
    levels={},
    search={"trials": 2, "steps": 2, "reduction": 2, "fields": SEARCHED},
    dev_queries=60,
    dev_pool={"dev_pool_queries": 60, "dev_pool_passages": 120},
    backend="auto",  # a cut collection is embedded sooner than a graph is exported
    reranked_queries=40,
)  # fmt: skip
