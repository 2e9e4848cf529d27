"""The step that sets the systems side by side on one corpus and one set of test queries.

    evaluate(config) -> report     report.json, report.html, run-<system>.parquet, scores.parquet

report.json: `systems` (one row per system), `details` (intervals, latency), `differences`, `slices`, `examples`,
`relevance`, `verdict`, `machine`, `inputs`, `notes`; assembly.py puts it together.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Final

from pydantic import Field

from retort.config import JobConfig, Ref, plain
from retort.corpus.lookup import Passages
from retort.evaluation.assembly import Measured, assemble, run_table, score_table
from retort.evaluation.contestants import Contestants, open_contestants
from retort.evaluation.measuring import DEPTH, open_queries, score_all, search_all, time_all
from retort.evaluation.page import render_page
from retort.evaluation.rerank import rerank_all
from retort.evaluation.systems import System
from retort.evaluation.verdict import decide
from retort.mining.bm25 import K1, B
from retort.progress import QUIET, Progress
from retort.resources import limit_threads
from retort.store import Artefact, Draft, inherited, open_store

__all__ = ["EvaluateConfig", "evaluate"]

VERSION: Final = 1
VERDICT_MEASURE: Final = "mrr@10"


class EvaluateConfig(JobConfig):
    """What is compared, on what."""

    corpus: Annotated[str, Ref("corpus")] = Field(description="Corpus artefact.")
    queries: Annotated[str, Ref("queries")] = Field(description="Queries artefact to measure on: the test split.")
    dev: Annotated[str | None, Ref("queries")] = Field(
        None,
        description="Queries artefact on which to decide between student and base. Default: the test queries decide.",
    )
    base_encoder: Annotated[str | None, Ref("encoder")] = Field(None, description="Encoder that the student came from.")
    base_index: Annotated[str | None, Ref("index")] = Field(
        None, description="Index of the corpus by the base encoder."
    )
    student_encoder: Annotated[str | None, Ref("encoder")] = Field(None, description="The distilled encoder.")
    student_index: Annotated[str | None, Ref("index")] = Field(None, description="Index of the corpus by the student.")
    teacher: Annotated[str | None, Ref("teacher")] = Field(
        None, description="Cross-encoder that re-ranks the student's (or, without one, the base's) first passages."
    )
    bm25: bool = Field(True, description="Whether to compare with BM25.")
    bm25_k1: float = Field(K1, ge=0, description="BM25's k1: how soon repeating a word stops to count.")
    bm25_b: float = Field(B, ge=0, le=1, description="BM25's b: how much longer passages are marked down.")
    rerank_top: int = Field(
        DEPTH,
        ge=1,
        le=DEPTH,
        description="Passages per query that the teacher reads; those beyond keep the first stage's order.",
    )
    max_queries: int | None = Field(
        None,
        ge=2,
        description="Measure on a random sample of at most this many queries of a split. Default: all of them.",
    )
    alpha: float = Field(
        0.05, gt=0, lt=1, description="The student is served if its gain over the base has a p below this."
    )
    resamples: int = Field(10_000, ge=100, description="Resamples of each bootstrap and randomisation test.")
    latency_queries: int = plain(100, ge=1, description="Test queries timed one by one per system, at most.")
    latency_threads: int = plain(1, ge=1, description="Threads of torch and FAISS while single queries are timed.")
    latency_budget_s: float = plain(
        4.0,
        gt=0,
        description="Seconds after which no more queries of a system are timed (once there are 30; of the teacher 5).",
    )


def evaluate(config: EvaluateConfig, progress: Progress | None = None) -> Artefact:
    """Measure all systems that the config names; return the report artefact.

    Raises:
        ConfigError: an encoder without its index or the other way round, a teacher without a first stage, or nothing
        to compare.
        NotFoundError: an input is not in the store.
        IncompatibleError: queries or an index of another corpus, or an encoder that does not fit its index.
        InputError: fewer than two queries have qrels.
    """
    progress = progress or QUIET
    store = open_store(config.store)
    contestants = open_contestants(config, store)
    draft = store.draft(
        "report",
        config.name or contestants.queries.name,
        step="evaluate",
        version=VERSION,
        inputs=contestants.inputs(),
        config=config.identity(),
    )
    done = draft.published
    if done is not None:
        progress.say(f"Report {done.name} is already made.")
        return done
    with draft:
        return draft.published or _measure(config, contestants, draft, progress)


def _measure(config: EvaluateConfig, contestants: Contestants, draft: Draft, progress: Progress) -> Artefact:
    """Run, time and score all systems; write the report's files and publish it."""
    threads = config.resources.resolve().threads
    limit_threads(threads)
    passages = Passages.open(contestants.corpus)
    queries = open_queries(contestants.queries, config.max_queries, config.seed)
    systems = contestants.first_stages(config, threads, progress)
    rankings = {system.name: search_all(system, queries, progress) for system in systems}
    verdict = _verdict(config, contestants, systems, rankings, queries, progress)
    teacher = contestants.teacher_system(systems[-1], passages, config.rerank_top)
    systems += [teacher] if teacher else []
    load = os.getloadavg()[0]
    limit_threads(config.latency_threads)
    latencies = time_all(
        systems, queries, at_most=config.latency_queries, budget_s=config.latency_budget_s,
        threads=config.latency_threads, seed=config.seed, progress=progress,
    )  # fmt: skip
    limit_threads(threads)
    if contestants.teacher is not None:
        rankings["teacher"] = rerank_all(
            rankings[systems[-2].name], queries.texts, top=config.rerank_top, teacher=contestants.teacher,
            corpus=contestants.corpus, draft=draft, resources=config.resources, progress=progress,
        )  # fmt: skip
    measured = Measured(
        systems=systems,
        rankings=rankings,
        scores=score_all(rankings, queries),
        latencies=latencies,
        verdict=verdict,
        load=load,
    )
    report = assemble(measured, queries, passages, contestants.inputs(), samples=config.resamples, seed=config.seed)
    return _publish(draft, measured, report, contestants)


def _verdict(
    config: EvaluateConfig,
    contestants: Contestants,
    systems: list[System],
    rankings: dict[str, dict[str, Any]],
    queries: Any,
    progress: Progress,
) -> dict[str, Any] | None:
    """Student or base, on the dev queries where there are any; None unless both take part."""
    if not {"base", "student"} <= rankings.keys():
        return None
    split = "test"
    compared = {name: rankings[name] for name in ("base", "student")}
    if contestants.dev is not None:
        split = "dev"
        queries = open_queries(contestants.dev, config.max_queries, config.seed)
        compared = {system.name: search_all(system, queries, progress) for system in systems if system.name in compared}
    scores = score_all(compared, queries)
    return decide(
        scores["student"][VERDICT_MEASURE], scores["base"][VERDICT_MEASURE], measure=VERDICT_MEASURE, split=split,
        alpha=config.alpha, samples=config.resamples, seed=config.seed,
    )  # fmt: skip


def _publish(draft: Draft, measured: Measured, report: dict[str, Any], contestants: Contestants) -> Artefact:
    for name, run in measured.rankings.items():
        draft.write_table(f"run-{name}.parquet", run_table(run))
    draft.write_table("scores.parquet", score_table(measured.scores))
    draft.write_json("report.json", report)
    draft.write_bytes("report.html", render_page(report).encode())
    metrics: dict[str, Any] = {
        row["name"]: {name: round(value, 4) for name, value in row.items() if name != "name"}
        for row in report["systems"]
    }
    if report["verdict"]:
        metrics["serve"] = report["verdict"]["serve"]
    return draft.publish(rows=report["queries"]["count"], metrics=metrics, **inherited(contestants.inputs().values()))
