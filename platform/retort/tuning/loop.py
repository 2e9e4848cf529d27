"""The shell that tunes in each worker of Ray Train; everything it does is in `trainer.py`.

`WorkerLink()` alone runs it in one process without Ray: so do the unit tests, and the trials of the sweep.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from retort.distillation.gather import sum_over_workers
from retort.indexing.vectors import VectorStore
from retort.models.backend import pick_device, shared_precision, training_token_budget
from retort.models.dual_encoder import DualEncoder
from retort.runtime.loop import WorkerLink
from retort.store import cache_root
from retort.store.files import FileArea
from retort.teaching.optimising import set_dropout
from retort.tuning.batches import BatchMaker
from retort.tuning.course import Course
from retort.tuning.freezing import freeze_weights
from retort.tuning.guard import Guard, Look
from retort.tuning.prepare_run import DATA_FOLDER, GUARD_FOLDER
from retort.tuning.trainer import TuneTrainer
from retort.tuning.training_set import TrainingSet

__all__ = ["LOOKS_FOLDER", "local_data", "tune_queries"]

LOOKS_FOLDER = "_looks"  # the untuned encoder's look, shared by all trials and the run


def tune_queries(settings: dict[str, Any], link: WorkerLink) -> None:
    """Tune until the course ends or a look at the languages ends it.

    `settings`: encoder and embeddings (artefacts), frozen (patterns), dropout (None: the model's own), course (fields of
    Course), area (the draft's FileArea), max_query_tokens, checkpoint_steps, checkpoint_minutes.
    """
    device, course = pick_device(), Course(**settings["course"])
    # Decided here and not by the driver, whose machine may be another.
    course = replace(course, precision=shared_precision(device, course.precision))
    folder = local_data(settings["area"])
    encoder = DualEncoder.load(
        settings["encoder"].local(),
        precision=course.precision,
        device=str(device),
        max_tokens={"query": settings["max_query_tokens"]},
    )
    freeze_weights(encoder.model, settings["frozen"])
    if settings["dropout"] is not None:
        set_dropout(encoder.model, settings["dropout"])
    batches = BatchMaker(
        TrainingSet.open(folder),
        VectorStore.open(settings["embeddings"]),
        batch_queries=course.batch_queries,
        negatives=course.negatives,
        random_share=course.random_share,
        loss=course.loss,
        padding=int(encoder.tokenizer.pad_token_id or 0),
        seed=course.seed,
        forward_tokens=course.forward_tokens or training_token_budget(device),
    )
    guard = Guard.open(folder / GUARD_FOLDER) if (folder / GUARD_FOLDER).exists() else None
    with TuneTrainer(encoder, batches, course, guard, rank=link.rank, world=link.world_size) as trainer:
        with link.restored() as checkpoint:
            if checkpoint is not None:
                trainer.load(checkpoint)
        if guard is not None and trainer.before is None:
            trainer.before = _untuned_look(settings["area"], guard, encoder, link)
            trainer.check_guard()
        _run(trainer, course, link, settings["checkpoint_steps"], settings["checkpoint_minutes"] * 60)


def _run(trainer: TuneTrainer, course: Course, link: WorkerLink, every_steps: int | None, every_s: float) -> None:
    state = trainer.state
    if trainer.before is not None and not state.looks:
        link.report({"step": state.step, "target": trainer.before.target})
    saved_at, saved = time.monotonic(), False
    while not trainer.finished:
        # Rank 0's clock decides for all: every worker must save at the same step.
        report = trainer.step(flag=link.rank == 0 and time.monotonic() - saved_at >= every_s)
        due = bool(report.pop("flag")) or (every_steps is not None and state.step % every_steps == 0)
        link.report(report)
        if trainer.look_due:
            entry = trainer.look()
            judgement = entry["judgement"] or {}
            link.report(
                {
                    "step": state.step,
                    "target": entry["target"],
                    "all_kept": judgement.get("all_kept"),
                    "summary": judgement.get("summary"),
                    "damaged": judgement.get("damaged", []),
                    "worst_low": judgement.get("worst_low"),
                }
            )
            due = True
        if due:
            link.save(trainer.save, {"step": state.step})
            saved_at, saved = time.monotonic(), True
    if not saved:
        # Taken up from a run that was over: say so, or there would be no checkpoint to go on with.
        link.save(trainer.save, {"step": state.step})


def _untuned_look(area: FileArea, guard: Guard, encoder: DualEncoder, link: WorkerLink) -> Look:
    """The encoder before its first step; looked at once for all trials and the run on devices of one kind."""
    path = f"{LOOKS_FOLDER}/before-{encoder.device.type}-{encoder.precision}.json"
    # Rank 0 says whether it is there: else one worker might look alone, and wait for the others for ever.
    there = link.rank == 0 and area.exists(path)
    if sum_over_workers([float(there)], encoder.device)[0] > 0:
        return Look.from_json(json.loads(area.read(path)))
    look = guard.look(encoder, link.rank, link.world_size)
    if link.rank == 0:
        area.write_bytes(path, json.dumps(look.to_json()).encode())
    return look


def local_data(area: FileArea) -> Path:
    """A local folder with training set and guard; from a remote store they are copied once per machine."""
    if area.is_local:
        return area.root / DATA_FOLDER
    folder = cache_root() / "tuning" / area.uri.rsplit("/", 1)[-1]
    for item in area.list(DATA_FOLDER):
        target = folder / item.path.removeprefix(f"{DATA_FOLDER}/")
        if not target.exists() or target.stat().st_size != item.size_bytes:
            area.download(item.path, target)
    return folder
