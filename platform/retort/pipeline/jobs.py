"""Every job, by the name that the CLI, jobs/ and pipelines use: its config model, its step, one line of help.

Rooms are imported when their job is asked for, so that `retort --help` answers at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from retort.config import JobConfig
from retort.errors import ConfigError


@dataclass(frozen=True)
class Job:
    """One job; `module` holds the config class and the step function."""

    name: str
    module: str
    config_name: str
    step_name: str
    summary: str
    positional: str | None = None  # the field that may stand first, without its option

    @property
    def config(self) -> type[JobConfig]:
        """The config model."""
        found: type[JobConfig] = getattr(importlib.import_module(self.module), self.config_name)
        return found

    @property
    def step(self) -> Callable[..., Any]:
        """`step(config, progress=...)`: an Artefact, or a dict of them by output name."""
        found: Callable[..., Any] = getattr(importlib.import_module(self.module), self.step_name)
        return found


JOBS: dict[str, Job] = {
    job.name: job
    for job in (
        Job(
            "ingest",
            "retort.corpus.ingest",
            "IngestConfig",
            "ingest",
            "Read a corpus, its queries and qrels; split long documents.",
        ),
        Job("embed", "retort.indexing.embed", "EmbedConfig", "embed", "Encode every passage of a corpus into vectors."),
        Job("index", "retort.indexing.build", "IndexConfig", "index", "Build a sharded FAISS index over embeddings."),
        Job(
            "reindex",
            "retort.releases.reindex",
            "ReindexConfig",
            "reindex",
            "Bring a release up to a new corpus or encoder, in part or whole, while it is served.",
            positional="release",
        ),
        Job(
            "mine",
            "retort.mining.mine",
            "MineConfig",
            "mine",
            "Find candidate passages for queries (BM25, dense, random).",
        ),
        Job(
            "train-teacher",
            "retort.teaching.train",
            "TrainTeacherConfig",
            "train_teacher",
            "Fine-tune a cross-encoder teacher on labelled queries.",
        ),
        Job(
            "audit",
            "retort.teaching.audit",
            "AuditConfig",
            "audit",
            "Compare teachers before one may teach: agreement, bias, trust, verdict.",
        ),
        Job(
            "score",
            "retort.teaching.score",
            "ScoreConfig",
            "score",
            "Let the teacher judge candidates: logits and word maps.",
        ),
        Job(
            "distil",
            "retort.distillation.distil",
            "DistilConfig",
            "distil",
            "Train a dual-encoder student from the teacher's judgements.",
        ),
        Job(
            "tune",
            "retort.tuning.tune",
            "TuneConfig",
            "tune",
            "Tune the query encoder alone over stored vectors, every language kept.",
        ),
        Job(
            "evaluate",
            "retort.evaluation.evaluate",
            "EvaluateConfig",
            "evaluate",
            "Set BM25, base, student and teacher side by side.",
        ),
    )
}


def job(name: str) -> Job:
    """The job of this name; ConfigError lists the names there are."""
    if name not in JOBS:
        raise ConfigError(f"There is no job {name!r}. Jobs: {', '.join(JOBS)}.")
    return JOBS[name]
