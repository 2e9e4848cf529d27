"""The value of report.json, put together from what was measured."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from retort.corpus.lookup import Passages
from retort.corpus.passages import passage_text
from retort.corpus.words import word_spans
from retort.evaluation.examples import choose_queries, example_rows
from retort.evaluation.findings import QueryFacts, Scores, cut_slices, differences, intervals, slice_rows
from retort.evaluation.latency import Latency
from retort.evaluation.measuring import TestQueries
from retort.evaluation.relevance import describe_relevance
from retort.evaluation.rerank import Ranking
from retort.evaluation.systems import System
from retort.metrics.measures import mean
from retort.resources import available_cores, gpu_count
from retort.store import Artefact

SCHEMA_VERSION = 1

BUSY_RATIO = 1.5
"""Wall over CPU time of a query above which the machine is said to have been busy."""

RUN = pa.schema([("query_id", pa.string()), ("passage_id", pa.string()), ("rank", pa.int32()), ("score", pa.float32())])
"""run-<system>.parquet."""
SCORE = pa.schema(
    [("system", pa.string()), ("measure", pa.string()), ("query_id", pa.string()), ("value", pa.float64())]
)
"""scores.parquet: the values per query, from which reports over several seeds are joined (metrics/significance.py
seed_mean)."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All that was measured on the test queries; dicts by system."""

    systems: Sequence[System]
    rankings: Mapping[str, Mapping[str, Ranking]]
    scores: Scores
    latencies: Mapping[str, Latency]
    verdict: dict[str, Any] | None
    load: float
    """Running processes on this machine just before the latencies were measured, mean over a minute."""


def assemble(
    measured: Measured,
    queries: TestQueries,
    passages: Passages,
    inputs: Mapping[str, Artefact],
    *,
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """The report: JSON-ready, no NaN. Needs `corpus` and `queries` among the inputs."""
    scores, corpus = measured.scores, inputs["corpus"]
    shown = next(name for name in ("student", "base", "bm25") if name in scores)
    measured_intervals = intervals(scores, samples=samples, seed=seed)
    mrr = {name: by_measure["mrr@10"] for name, by_measure in scores.items()}
    chosen = choose_queries(mrr[shown], mrr["base"] if shown == "student" and "base" in mrr else None)
    return {
        "schema_version": SCHEMA_VERSION,
        "title": f"Search quality on {corpus.name}",
        "created": datetime.now(UTC).strftime("%Y-%m-%d"),
        "systems": [
            {
                "name": system.name,
                **{name: mean(values) for name, values in scores[system.name].items()},
                "ms_per_query": measured.latencies[system.name].median_ms,
                "index_bytes": system.index_bytes,
            }
            for system in measured.systems
        ],
        "details": {
            system.name: {
                "what": system.what,
                "measures": measured_intervals[system.name],
                "latency": asdict(measured.latencies[system.name]),
            }
            for system in measured.systems
        },
        "verdict": measured.verdict,
        "relevance": describe_relevance(queries.origins.values()),
        "differences": differences(scores, samples=samples, seed=seed),
        "slices": slice_rows(cut_slices(query_facts(queries, passages)), scores, samples=samples, seed=seed),
        "examples": example_rows(
            chosen, measured.rankings, queries.qrels, queries.texts, lambda ids: titled_texts(passages, ids), shown
        ),
        "corpus": {"name": corpus.name, "digest": corpus.digest, "passages": len(passages)},
        "queries": {
            "name": inputs["queries"].name,
            "digest": inputs["queries"].digest,
            "count": len(queries.texts),
            "available": queries.available,
            "without_qrels": queries.without_qrels,
        },
        "inputs": {
            role: {"name": artefact.name, "key": artefact.key, "digest": artefact.digest}
            for role, artefact in inputs.items()
            if role not in ("corpus", "queries")
        },
        "machine": describe_machine(measured.load),
        "notes": [*_notes(queries), *_timing_notes(measured.latencies)],
    }


def query_facts(queries: TestQueries, passages: Passages) -> dict[str, QueryFacts]:
    """What each query can be sliced by; length and section are those of its best-graded relevant passage (the first by
    id of several)."""
    best = {
        query: min(grades, key=lambda passage: (-grades[passage], passage)) for query, grades in queries.qrels.items()
    }
    rows = passage_rows(passages, sorted(set(best.values())))
    return {
        query: QueryFacts(
            passage_words=len(word_spans(passage_text(rows[passage]["title"], rows[passage]["text"]))),
            section=rows[passage]["section"],
            lang=queries.langs[query],
            origin=queries.origins[query],
        )
        for query, passage in best.items()
    }


def titled_texts(passages: Passages, ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """`{passage_id: (title, text)}`."""
    return {passage: (row["title"], row["text"]) for passage, row in passage_rows(passages, ids).items()}


def passage_rows(passages: Passages, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`{passage_id: {"title", "text", "section"}}`."""
    return dict(zip(ids, passages.records(ids, ["title", "text", "section"]), strict=True))


def run_table(run: Mapping[str, Ranking]) -> pa.Table:
    """run-<system>.parquet; ranks from 1."""
    rows = [
        (query, passage, rank, score)
        for query, ranking in run.items()
        for rank, (passage, score) in enumerate(ranking, 1)
    ]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(RUN)
    return pa.table([pa.array(column, kind.type) for column, kind in zip(columns, RUN, strict=True)], schema=RUN)


def score_table(scores: Scores) -> pa.Table:
    """scores.parquet."""
    rows = [
        {"system": system, "measure": measure, "query_id": query, "value": value}
        for system, by_measure in scores.items()
        for measure, values in by_measure.items()
        for query, value in values.items()
    ]
    return pa.Table.from_pylist(rows, schema=SCORE)


def describe_machine(load: float) -> dict[str, Any]:
    """What the latencies were measured on."""
    gpu = ""
    if gpu_count() > 0:
        import torch

        gpu = torch.cuda.get_device_name(0)
    return {"cpu": _cpu_name(), "cores": available_cores(), "gpu": gpu, "load": load}


def _cpu_name() -> str:
    """The processor's name as Linux tells it, else what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _notes(queries: TestQueries) -> list[str]:
    notes = []
    if len(queries.texts) < queries.available:
        notes.append(f"Measured on a random sample of {len(queries.texts):,} of {queries.available:,} queries.")
    if queries.without_qrels:
        notes.append(f"{queries.without_qrels:,} queries of this split have no qrels and were left out.")
    if len(queries.texts) < 100:
        notes.append(f"{len(queries.texts)} queries are few: only large differences can be told from chance.")
    return notes


def _timing_notes(latencies: Mapping[str, Latency]) -> list[str]:
    """Say so when the clock measured the neighbours: a query waited much longer than this process worked."""
    if gpu_count() > 0:
        return []  # there, waiting is part of the work
    waits = [
        latency.median_ms / latency.cpu_ms
        for latency in latencies.values()
        if latency.median_ms > 1 and latency.cpu_ms > 0
    ]
    if not waits or max(waits) < BUSY_RATIO:
        return []
    return [
        f"The machine was busy with other work while single queries were timed (up to {max(waits):.1f} times their own computing "
        "time): on a quiet machine the milliseconds per query are lower."
    ]
