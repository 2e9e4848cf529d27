"""Running systems over queries: which queries, all their rankings, and the time of single ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from retort.corpus.queries import QuerySet
from retort.errors import InputError
from retort.evaluation.latency import Latency, measure_latency
from retort.evaluation.rerank import Ranking
from retort.evaluation.systems import System
from retort.metrics.measures import DEFAULT_MEASURES, evaluate
from retort.progress import Progress
from retort.store import Artefact

DEPTH: Final = 100
"""Passages per ranking: what recall@100 needs."""
LEAST_TIMED: Final = 30
LEAST_TIMED_TEACHER: Final = 5
"""One query of the teacher costs so much that few of them must do."""
_BLOCK: Final = 64


@dataclass(frozen=True, kw_only=True)
class TestQueries:
    """The queries of one split that are measured; dicts by query id, in one order."""

    texts: dict[str, str]
    langs: dict[str, str]
    origins: dict[str, str]
    qrels: dict[str, dict[str, int]]
    available: int
    """Queries with qrels in the split, of which these may be a sample."""
    without_qrels: int

    __test__ = False  # not a test class, whatever pytest makes of its name


def open_queries(artefact: Artefact, at_most: int | None, seed: int) -> TestQueries:
    """The queries with qrels, or a random sample of them.

    Raises:
        InputError: fewer than two queries have qrels.
    """
    queries = QuerySet.open(artefact)
    labelled = queries.labelled
    if len(labelled) < 2:
        raise InputError(
            f"{artefact} has {len(labelled)} queries with a relevant passage among its {len(queries)}: "
            "two at least are needed to measure on."
        )
    chosen = labelled
    if at_most is not None and at_most < len(labelled):
        places = np.random.default_rng(seed).choice(len(labelled), size=at_most, replace=False)
        chosen = [labelled[place] for place in sorted(places)]
    measured = queries.subset(chosen)
    return TestQueries(
        texts=dict(zip(chosen, measured.texts, strict=True)),
        langs=dict(zip(chosen, measured.langs, strict=True)),
        origins=dict(zip(chosen, measured.origins, strict=True)),
        qrels=measured.qrels,
        available=len(labelled),
        without_qrels=len(queries) - len(labelled),
    )


def search_all(system: System, queries: TestQueries, progress: Progress) -> dict[str, Ranking]:
    """The system's ranking of every query, `DEPTH` deep."""
    ids = list(queries.texts)
    found: dict[str, Ranking] = {}
    with progress.task(f"searching with {system.name}", len(ids)) as task:
        for start in range(0, len(ids), _BLOCK):
            block = ids[start : start + _BLOCK]
            rankings = system.search([queries.texts[query] for query in block], DEPTH)
            found |= dict(zip(block, rankings, strict=True))
            task.update(len(block))
    return found


def score_all(
    rankings: Mapping[str, Mapping[str, Ranking]], queries: TestQueries
) -> dict[str, dict[str, dict[str, float]]]:
    """`{system: {measure: {query_id: value}}}`; a query without hits counts 0."""
    return {
        name: evaluate({query: dict(ranking) for query, ranking in run.items()}, queries.qrels, DEFAULT_MEASURES)
        for name, run in rankings.items()
    }


def time_all(
    systems: Sequence[System],
    queries: TestQueries,
    *,
    at_most: int,
    budget_s: float,
    threads: int,
    seed: int,
    progress: Progress,
) -> dict[str, Latency]:
    """The latency of each system on the same random sample of the queries, one query at a time in this process."""
    texts = list(queries.texts.values())
    order = np.random.default_rng(seed).permutation(len(texts))[:at_most]
    sample = [texts[place] for place in order]
    found: dict[str, Latency] = {}
    with progress.task("timing single queries", len(systems)) as task:
        for system in systems:
            found[system.name] = measure_latency(
                lambda text, system=system: system.search([text], DEPTH),  # type: ignore[misc]
                sample,
                threads=threads,
                budget_s=budget_s,
                least_queries=LEAST_TIMED_TEACHER if system.name == "teacher" else LEAST_TIMED,
            )
            task.update(1)
    return found
