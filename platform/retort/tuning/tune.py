"""The tuning step: a copy of the encoder learns to encode queries, gently, while the passages' vectors stay as they are.

    tune(config) -> encoder     with its base's passage space, the difference to its base, a report and a model card

The work is done by `prepare_run.py` (what is learnt from, and guarded), `sweep.py` (Ray Tune: how fast)
and `loop.py` (Ray Train: the run). A killed run goes on: what is prepared, finished trials and checkpoints lie in the
draft's scratch folder. Nothing is published unless some point kept every guarded language.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from retort.errors import CorruptError, InputError, StorageError
from retort.models.dual_encoder import DualEncoder
from retort.progress import QUIET, Progress
from retort.store import Artefact, Draft, cache_root, open_store
from retort.store.manifest import StoredFile, files_digest
from retort.teaching.trainer import NotFiniteError
from retort.tuning.config import TuneConfig
from retort.tuning.course import Course, look_steps
from retort.tuning.freezing import freeze_weights
from retort.tuning.inputs import find_inputs
from retort.tuning.ladder import best_row
from retort.tuning.outcome import Outcome
from retort.tuning.prepare_run import prepare_run
from retort.tuning.result import Result, publish

__all__ = ["NoSafePointError", "TuneConfig", "tune"]

COSINE_TEMPERATURE = 0.05


class NoSafePointError(InputError):
    """No point of the run, or no rate of the sweep, kept every guarded language."""


def tune(config: TuneConfig, progress: Progress | None = None) -> Artefact:
    """Tune a query encoder; return the encoder artefact.

    Its metrics hold `passage_space` (its base's), `rate`, `target_before`, `target_after`, `worst_language`, `worst_low`,
    `mean_language_change`, `moved` and `sweep`; its files page.html, report.json and delta.safetensors.

    Raises:
        NotFoundError: an input is not in the store.
        IncompatibleError: vectors of another encoder, or queries about another corpus.
        InputError: nothing to learn from, queries in another language, a guard that can tell nothing.
        ConfigError: fewer steps than looks, a pattern that freezes nothing.
        NoSafePointError: not one point kept every guarded language; nothing is published.
        NotFiniteError: the loss became infinite or not a number; the last checkpoint is kept.
    """
    progress = progress or QUIET
    store = open_store(config.store)
    inputs = find_inputs(config, store)
    name = config.name or f"{inputs['encoder'].name}-tuned"[:100]
    draft = store.draft("encoder", name, step="tune", inputs=inputs, config=config.identity())
    done = draft.published
    if done is not None:
        progress.say(f"Encoder {done.name} is already made.")
        return done
    with draft:
        return draft.published or _tune(config, draft, inputs, progress)


def _tune(config: TuneConfig, draft: Draft, inputs: Mapping[str, Artefact], progress: Progress) -> Artefact:
    """Prepare, search for the rate, run, and publish."""
    reader = DualEncoder.load(inputs["encoder"].local(), max_tokens={"query": config.max_query_tokens})
    freeze_weights(reader.model, config.frozen)  # a wrong name is told now and not by a worker
    digest_before = vectors_digest(inputs["embeddings"])
    prepared = prepare_run(config, draft, inputs, reader, progress)
    for warning in prepared.warnings:
        progress.say(f"Note: {warning}")
    course = _course(config, prepared.steps, reader)
    settings = _settings(config, draft, inputs, course)
    rows: dict[float, dict[str, Any]] | None = None
    if config.learning_rate == "auto":
        rows, course = _swept(config, draft, settings, course, progress)
    progress.say(
        f"Tuning on {prepared.queries:,} queries at a rate of {course.learning_rate:.3g}: {course.steps} steps of {course.batch_queries}; "
        + ("no language is watched." if config.unguarded else f"the guard looks {len(course.look_at)} times.")
    )
    with tempfile.TemporaryDirectory(prefix="retort-") as folder:
        checkpoint = _run(
            config, draft, {**settings, "course": asdict(course)}, course, Path(folder) / "last", progress
        )
        outcome = Outcome.of(checkpoint, settings)
    if outcome.best is None:
        raise NoSafePointError(_no_good_point(outcome, course))
    digest_after = vectors_digest(inputs["embeddings"])
    if digest_after != digest_before:
        raise CorruptError(
            f"{inputs['embeddings']} changed while the query encoder was tuned: its files' digest was {digest_before[:12]} and is "
            f"{digest_after[:12]}. Tuning never writes them; find out what did, and embed again. Nothing was published."
        )
    result = Result(
        config=config,
        inputs=inputs,
        course=course,
        outcome=outcome,
        rows=list(rows.values()) if rows is not None else None,
        coverage=prepared.coverage,
        warnings=prepared.warnings,
        digests=(digest_before, digest_after),
    )
    return publish(draft, result, progress)


# The numbers of the run -----------------------------------------------------------------------------------------------------


def _course(config: TuneConfig, steps: int, encoder: DualEncoder) -> Course:
    """Turn the config into the numbers of this run; with `auto` the rate is the sweep's first."""
    auto = config.learning_rate == "auto"
    return Course(
        steps=steps,
        batch_queries=config.batch_queries,
        negatives=config.negatives,
        random_share=config.random_share,
        loss=config.loss,
        margin=config.margin,
        temperature=config.temperature or (COSINE_TEMPERATURE if encoder.normalise else 1.0),
        teacher_temperature=config.teacher_temperature,
        learning_rate=config.sweep.start if config.learning_rate == "auto" else config.learning_rate,
        warmup_steps=config.warmup_steps,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        master=config.master,
        look_at=look_steps(steps, config.guard.looks),
        # The point is chosen among all looks of all trials, so all of them share the error.
        planned_looks=config.guard.looks * (config.sweep.trials + 1 if auto else 1),
        guarded=not config.unguarded,
        seed=config.seed,
        forward_tokens=None,
        precision=config.precision,
    )


def _settings(config: TuneConfig, draft: Draft, inputs: Mapping[str, Artefact], course: Course) -> dict[str, Any]:
    """What `loop.tune_queries` takes."""
    return {
        "encoder": inputs["encoder"],
        "embeddings": inputs["embeddings"],
        "frozen": list(config.frozen),
        "dropout": config.dropout,
        "course": asdict(course),
        "area": draft.area,
        "max_query_tokens": config.max_query_tokens,
        "checkpoint_steps": config.checkpoint_steps,
        "checkpoint_minutes": config.checkpoint_minutes,
    }


# Sweep and run ----------------------------------------------------------------------------------------------------------------


def _swept(
    config: TuneConfig, draft: Draft, settings: Mapping[str, Any], course: Course, progress: Progress
) -> tuple[dict[float, dict[str, Any]], Course]:
    """Try rates; rows of the trials, and the course to the best point at which every language was kept."""
    from retort.tuning.sweep import run_sweep  # Ray: only where work is done

    steps = config.sweep.steps or course.steps
    trial = replace(course, steps=steps, look_at=look_steps(steps, config.guard.looks))
    rows = run_sweep(
        config.sweep, {**settings, "course": asdict(trial)}, config.resources, draft, progress, config.max_failures
    )
    best = best_row(config.sweep, rows)
    if best is None:
        tried = "; ".join(f"{rate:.3g}: {row['summary']}" for rate, row in sorted(rows.items())[:3])
        raise NoSafePointError(
            f"No rate is safe: of {len(rows)} from {min(rows):.3g} to {max(rows):.3g}, not one kept every guarded language up to its first look ({tried}). "
            "Nothing was published. Give more guard queries per language, fewer steps, or a lower sweep.start."
        )
    damaging = [rate for rate, row in rows.items() if row["damaging"]]
    progress.say(
        f"Best dev score with every language kept: rate {best['rate']:.3g} after {best['best_step']} steps ({len(rows)} rates tried; "
        + (f"{min(damaging):.3g} damages a language)." if damaging else "none of them damaged a language).")
    )
    course = replace(course, learning_rate=best["rate"])
    if config.sweep.steps is not None:
        return rows, course  # a short sweep: the run goes on to its own end, under its own looks
    # The rate is constant and batches are a function of the step, so this run passes through that very point.
    looks = tuple(step for step in trial.look_at if step <= best["best_step"])
    return rows, replace(course, steps=best["best_step"], look_at=looks)


def _run(
    config: TuneConfig, draft: Draft, settings: Mapping[str, Any], course: Course, into: Path, progress: Progress
) -> Path:
    """Run the loop on Ray Train; return the folder of its last checkpoint."""
    from retort.runtime.loop import run_training
    from retort.tuning.loop import tune_queries
    from retort.tuning.records import Records

    logs = draft.store_area.root if draft.store_area.is_local else cache_root()
    with (
        progress.task("tuning", course.steps) as task,
        Records(logs / "logs" / "encoder" / draft.key[:16], task) as records,
    ):
        try:
            outcome = run_training(
                tune_queries,
                settings,
                config.resources,
                scratch=draft.scratch(),
                run_name=f"tune-{course.learning_rate:.6g}",
                into=into,
                on_report=records,
                max_failures=config.max_failures,
            )
        except NotFiniteError as error:
            raise NotFiniteError(
                f"{error} Its last checkpoint is kept in {draft.scratch()}. Lower learning_rate."
            ) from None
    if outcome.checkpoint is None:
        raise StorageError(f"Tuning ended without a checkpoint in {draft.scratch()}; run the same command again.")
    return outcome.checkpoint


def _no_good_point(outcome: Outcome, course: Course) -> str:
    last = outcome.state.looks[-1]
    return (
        f"No point was safe: at the first of {len(course.look_at)} looks, after {last['step']} of {course.steps} steps at a rate of "
        f"{course.learning_rate:.3g}, not every guarded language was kept. {last['judgement']['summary']} Nothing was published; the untuned "
        "encoder stays the one to use. Lower learning_rate (or set it to auto), give fewer steps, or more guard queries per language."
    )


def vectors_digest(embeddings: Artefact) -> str:
    """Digest of the embeddings' data files as they are now, read again; CorruptError where they differ from the manifest."""
    found = files_digest(
        [
            StoredFile(path=item.path, size_bytes=item.size_bytes, sha256=embeddings.area.sha256(item.path))
            for item in embeddings.manifest.files
        ]
    )
    if found != embeddings.digest:
        embeddings.verify()  # names the file
    return found
