"""The grid's rows, and how much of everything the full and the quick mode take; see `distillation.py` for the reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["FULL", "QUICK", "ROWS", "Plan", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """One row of the grid: which losses, and which filter."""

    name: str
    levels: tuple[str, ...]
    filter: str = "none"

    def losses(self) -> dict[str, Any]:
        """The config's weights: those of levels that are off are 0, the others the defaults that the dev search moves."""
        return {f"{level}_weight": 0.0 for level in ("sentence", "word") if level not in self.levels}


ROWS = (
    Recipe("contrastive", ()),
    Recipe("sentence", ("sentence",)),
    Recipe("word", ("word",)),
    Recipe("both", ("sentence", "word")),
    Recipe("both_filtered", ("sentence", "word"), "dynamic"),
    Recipe("both_static", ("sentence", "word"), "static"),
)


@dataclass(frozen=True)
class Plan:
    """Sizes of one mode."""

    passages: int | None  # of the collection; None: all
    seeds: tuple[int, ...]
    rounds: int
    taught: int  # training queries with judgements
    mined: dict[str, int]  # candidates per query by source
    teacher_queries: int
    teacher: dict[str, Any]
    student: dict[str, Any]
    search: dict[str, Any]
    dev_queries: int
    dev_pool: dict[str, int]
    test_queries: int | None  # None: all
    reranked_queries: int


FULL = Plan(
    passages=None,
    seeds=(13, 1, 2),
    rounds=2,
    taught=1500,
    mined={"bm25_k": 4, "dense_k": 12, "random_k": 0},
    teacher_queries=9600,
    teacher={
        "max_steps": 1200, "evaluate_every": 200, "batch_queries": 8, "negatives": 3, "random_negatives": 1, "held_out_queries": 200,
        "held_out_depth": 20, "max_tokens": 160, "epochs": 2.0,
    },
    student={
        "max_steps": 48, "batch_queries": 32, "negatives": 4, "similar": 8, "max_passage_tokens": 96, "evaluate_every": 24, "epochs": 2.0,
    },
    search={"trials": 4, "steps": 24, "reduction": 3},
    dev_queries=400,
    dev_pool={"dev_pool_queries": 400, "dev_pool_passages": 1000},
    test_queries=None,
    reranked_queries=600,
)  # fmt: skip

QUICK = Plan(
    passages=1500,
    seeds=(13,),
    rounds=2,
    taught=200,
    mined={"bm25_k": 2, "dense_k": 4, "random_k": 0},
    teacher_queries=400,
    teacher={
        "max_steps": 12, "evaluate_every": 12, "batch_queries": 8, "negatives": 2, "random_negatives": 1, "held_out_queries": 40,
        "held_out_depth": 10, "max_tokens": 128,
    },
    student={"max_steps": 3, "batch_queries": 16, "negatives": 2, "similar": 4, "max_passage_tokens": 64, "evaluate_every": 3},
    search={"trials": 2, "steps": 2, "reduction": 2},
    dev_queries=60,
    dev_pool={"dev_pool_queries": 60, "dev_pool_passages": 120},
    test_queries=200,
    reranked_queries=40,
)  # fmt: skip
