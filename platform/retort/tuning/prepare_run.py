"""Everything that a run reads, written to the draft's scratch folder where trials and workers find it: training set and guard.

Made once per key: a run that goes on after a kill finds it there. Neighbours: `prepare.py` makes the training set,
`guard_sets.py` what the guard reads, `loop.py` opens both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.errors import ConfigError, InputError
from retort.indexing.vectors import VectorStore
from retort.models.dual_encoder import DualEncoder
from retort.models.judgements import Judgements
from retort.progress import Progress
from retort.store import Artefact, Draft
from retort.tuning.config import TuneConfig
from retort.tuning.english import check_language
from retort.tuning.guard import prepare_guard
from retort.tuning.guard_data import GuardData
from retort.tuning.inputs import guard_sets
from retort.tuning.prepare import Coverage, prepare

__all__ = ["DATA_FOLDER", "GUARD_FOLDER", "Prepared", "prepare_run"]

DATA_FOLDER = "_data"  # scratch folder of the draft with the training set
GUARD_FOLDER = "guard"  # below it: what the guard reads
PREPARED = "prepared.json"


@dataclass(frozen=True)
class Prepared:
    """What was written, and what the user should know of it."""

    queries: int
    steps: int
    coverage: dict[str, Any]
    warnings: list[str]


def prepare_run(
    config: TuneConfig, draft: Draft, inputs: Mapping[str, Artefact], reader: DualEncoder, progress: Progress
) -> Prepared:
    """Write training set and guard where the workers find them, unless an earlier run of the same key did."""
    if draft.has(f"{DATA_FOLDER}/{PREPARED}"):
        return Prepared(**draft.read_json(f"{DATA_FOLDER}/{PREPARED}"))
    queries, warnings = _training_queries(config, inputs["queries"])
    steps = _steps(config, len(queries))
    seen = max(steps, config.sweep.steps or 0 if config.learning_rate == "auto" else 0) * config.batch_queries
    sets, target = guard_sets(inputs)
    with draft.folder_for(f"{DATA_FOLDER}/") as folder:
        with progress.task("mining negatives from the stored vectors", min(len(queries), seen)) as task:
            data, coverage = prepare(
                queries=queries,
                passages=Passages.open(inputs["embeddings"].input("corpus")),
                vectors=VectorStore.open(inputs["embeddings"]),
                encoder=reader,
                judgements=Judgements.open(inputs["judgements"]) if config.loss == "distil" else None,
                most_queries=seen,
                hard_depth=config.hard_depth,
                false_negative_cut=config.false_negative_cut,
                seed=config.seed,
                task=task,
            )
            data.save(folder)
        if sets or target is not None:
            progress.say(f"Preparing the guard: {len(sets)} sets.")
            prepare_guard(config.guard, sets, target, reader, folder / GUARD_FOLDER, config.seed)
            warnings += GuardData.open(folder / GUARD_FOLDER).notes
    prepared = Prepared(len(data), steps, coverage.as_metrics(), warnings + _thin(coverage))
    # Last: without it the folder is not whole, and is made again.
    draft.write_json(f"{DATA_FOLDER}/{PREPARED}", asdict(prepared))
    return prepared


def _training_queries(config: TuneConfig, artefact: Artefact) -> tuple[QuerySet, list[str]]:
    """The queries to learn from, in the language they should be in; and warnings."""
    queries = QuerySet.open(artefact)
    if config.query_languages:
        wanted = set(config.query_languages)
        there = sorted(set(queries.langs))
        queries = queries.subset(
            query for query, lang in zip(queries.ids, queries.langs, strict=True) if lang in wanted
        )
        if not len(queries):
            raise InputError(
                f"query_languages is {', '.join(config.query_languages)}, and {artefact} has no query of these; it has "
                f"{', '.join(repr(lang) for lang in there)}."
            )
    if config.loss != "distil":
        queries = queries.subset(queries.labelled)
    if not config.english_only:
        return queries, []
    return queries, check_language(
        queries.ids,
        queries.texts,
        queries.langs,
        language=config.english,
        max_foreign_share=config.max_foreign_share,
        what=str(artefact),
    )


def _thin(coverage: Coverage) -> list[str]:
    if not coverage.without_hard_negatives:
        return []
    return [
        f"{coverage.without_hard_negatives:,} of {coverage.queries:,} training queries have no hard negative and learn from random ones."
    ]


def _steps(config: TuneConfig, queries: int) -> int:
    """Steps of the run; ConfigError for fewer than looks."""
    steps = config.steps or max(1, math.ceil(config.epochs * queries / config.batch_queries))
    trial = (config.sweep.steps or steps) if config.learning_rate == "auto" else steps
    fewest, field = (steps, "steps") if steps <= trial else (trial, "sweep.steps")
    if fewest < config.guard.looks:
        raise ConfigError(
            f"{field} comes to {fewest} ({queries:,} queries in batches of {config.batch_queries}), fewer than the {config.guard.looks} looks "
            "of the guard. Give more steps or epochs, smaller batches, or fewer guard.looks."
        )
    return steps
