"""A synthetic report, made by the real findings from rankings with a known quality."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from retort.evaluation.examples import choose_queries, example_rows
from retort.evaluation.findings import QueryFacts, cut_slices, differences, intervals, slice_rows
from retort.evaluation.verdict import decide
from retort.metrics.measures import evaluate, mean

MEASURES = ("mrr@10", "ndcg@10", "recall@100")
NAMES = ("bm25", "base", "student", "teacher")
SECTIONS = ("utils", "science", "net", "python", "games & <fun>")


def synthetic_rankings(
    skill: dict[str, float], queries: int, seed: int = 1
) -> dict[str, dict[str, list[tuple[str, float]]]]:
    """`{system: {query: ranking}}`: the relevant passage of q7 is p7; with more skill it tends to stand higher."""
    rng = np.random.default_rng(seed)
    difficulty = rng.gamma(2.0, 6.0, queries)
    found: dict[str, dict[str, list[tuple[str, float]]]] = {}
    for system, power in skill.items():
        found[system] = {}
        for number in range(queries):
            rank = int(difficulty[number] / power * rng.lognormal(0, 0.7))
            ids = [f"p{(number + other) % queries}" for other in range(1, 101)]
            if rank < 100:
                ids[rank] = f"p{number}"
            found[system][f"q{number}"] = [(passage, 1.0 - place / 200) for place, passage in enumerate(ids)]
    return found


def synthetic_report(queries: int = 600, skill: dict[str, float] | None = None) -> dict[str, Any]:
    """The value of a report.json."""
    rankings = synthetic_rankings(skill or {"bm25": 2.0, "base": 2.6, "student": 4.0, "teacher": 6.0}, queries)
    qrels = {f"q{number}": {f"p{number}": 1} for number in range(queries)}
    scores = {
        name: evaluate({q: dict(ranking) for q, ranking in run.items()}, qrels, MEASURES)
        for name, run in rankings.items()
    }
    rng = np.random.default_rng(2)
    facts = {
        query: QueryFacts(
            passage_words=int(rng.gamma(2, 30)) + 5,
            section=SECTIONS[min(4, int(rng.exponential(1.3)))],
            lang="en" if rng.random() < 0.8 else "de",
            origin="title",
        )
        for query in qrels
    }
    budget = {"samples": 1000, "seed": 13}
    measured = intervals(scores, **budget)
    times = {"bm25": 0.63, "base": 7.4, "student": 7.2, "teacher": 820.0}
    sizes = {"bm25": 4_200_000, "base": 51_300_000, "student": 51_300_000, "teacher": 51_300_000}
    what = {
        "bm25": "bm25s, k1 = 1.5, b = 0.75",
        "base": "dual encoder of 384 dimensions, flat index",
        "student": "dual encoder of 384 dimensions, flat index",
        "teacher": "cross-encoder over the student's first 100 passages",
    }
    text = (
        "Shows the <b>status</b> of packages & their dependencies, walks the tree of directories and prints what it found there. "
        * 3
    )
    return {
        "schema_version": 1,
        "title": "sample",
        "created": "21 November 2025",
        "systems": [
            {
                "name": name,
                **{m: mean(scores[name][m]) for m in MEASURES},
                "ms_per_query": times[name],
                "index_bytes": sizes[name],
            }
            for name in rankings
        ],
        "corpus": {"name": "sample", "digest": "ab" * 32, "passages": 8412},
        "queries": {
            "name": "sample.test",
            "digest": "cd" * 32,
            "count": queries,
            "available": queries + 200,
            "without_qrels": 0,
        },
        "inputs": {"student_encoder": {"name": "sample-student", "digest": "ef" * 32}},
        "relevance": {
            "source": "made",
            "text": "queries made from titles; the only passage counted as relevant is the one it was taken from",
            "caution": "Other passages may answer a made query as well and are counted as wrong.",
        },
        "details": {
            name: {
                "what": what[name],
                "measures": measured[name],
                "latency": {
                    "median_ms": times[name],
                    "p90_ms": times[name] * 1.4,
                    "cpu_ms": times[name],
                    "queries": 40,
                    "threads": 2,
                },
            }
            for name in rankings
        },
        "differences": differences(scores, **budget),
        "slices": slice_rows(cut_slices(facts), scores, **budget),
        "examples": example_rows(
            choose_queries(scores["student"]["mrr@10"], scores["base"]["mrr@10"]),
            rankings,
            qrels,
            {query: f"how do I list packages that need <{query}>" for query in qrels},
            lambda ids: {passage: (f"Module {passage}", text) for passage in ids},
            "student",
        ),
        "verdict": decide(
            scores["student"]["mrr@10"], scores["base"]["mrr@10"], measure="mrr@10", split="test", alpha=0.05, **budget
        ),
        "machine": {"cpu": "Some CPU", "cores": 2, "gpu": "", "load": 0.4},
        "notes": [],
    }


@pytest.fixture(scope="session")
def make_report() -> Callable[..., dict[str, Any]]:
    """`make_report(queries, skill by system)`."""
    return synthetic_report


@pytest.fixture(scope="session")
def report() -> dict[str, Any]:
    """One good report for tests that only read it."""
    return synthetic_report(400)
