"""The shell that distils in each worker of Ray Train; everything it does is in `trainer.py`.

`WorkerLink()` alone runs it in one process without Ray, which is how the unit tests call it.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from retort.distillation.collate import Collator
from retort.distillation.course import Course
from retort.distillation.dev_pool import DEV_FILE, DevPool
from retort.distillation.student import initial_student
from retort.distillation.trainer import DistilTrainer
from retort.distillation.training_set import FILES, TrainingSet
from retort.distillation.word_targets import WordTargets
from retort.models.backend import pick_device, shared_precision, training_token_budget
from retort.models.judgements import Judgements
from retort.runtime.loop import WorkerLink
from retort.store import cache_root
from retort.store.files import FileArea
from retort.teaching.optimising import freeze, set_dropout

__all__ = ["DATA_FOLDER", "teach_student"]

DATA_FOLDER = "_data"  # scratch folder of the draft with the training set and the dev pool


def teach_student(settings: dict[str, Any], link: WorkerLink) -> None:
    """Train until the course ends or the dev figure stops rising.

    `settings`: start (encoder artefact), layers, frozen (patterns), dropout (None: the model's own), course (fields of
    Course), area (the draft's FileArea), judgements (artefact; None without word level), checkpoint_steps,
    checkpoint_minutes; evaluate_first (default True): look at the dev pool before the first step too.
    """
    device, course = pick_device(), Course(**settings["course"])
    # Decided here and not by the driver, whose machine may be another.
    course = replace(course, precision=shared_precision(device, course.precision))
    folder = _local_data(settings["area"])
    data = TrainingSet.open(folder)
    dev = DevPool.open(folder) if (folder / DEV_FILE).exists() else None
    student = initial_student(
        settings["start"].local(), layers=settings["layers"], precision=course.precision, device=str(device)
    )
    freeze(student.model, settings["frozen"])
    if settings["dropout"] is not None:
        set_dropout(student.model, settings["dropout"])
    targets = WordTargets(Judgements.open(settings["judgements"])) if settings["judgements"] is not None else None
    collator = Collator(
        data,
        padding=int(student.tokenizer.pad_token_id or 0),
        chunk_tokens=course.chunk_tokens,
        forward_tokens=course.forward_tokens or training_token_budget(device),
        word_targets=targets,
    )
    with DistilTrainer(student, data, course, collator, dev, rank=link.rank, world=link.world_size) as trainer:
        with link.restored() as checkpoint:
            if checkpoint is not None:
                trainer.load(checkpoint)
        if trainer.has_dev and not trainer.state.history and settings.get("evaluate_first", True):
            link.report({"step": trainer.state.step, "mrr10": trainer.evaluate()})
        _run(trainer, course, link, settings["checkpoint_steps"], settings["checkpoint_minutes"] * 60)


def _run(trainer: DistilTrainer, course: Course, link: WorkerLink, every_steps: int | None, every_s: float) -> None:
    state = trainer.state
    saved_at, saved = time.monotonic(), False
    while not trainer.finished:
        # Rank 0's clock decides for all: every worker must save at the same step.
        report = trainer.step(flag=link.rank == 0 and time.monotonic() - saved_at >= every_s)
        due = bool(report.pop("flag")) or (every_steps is not None and state.step % every_steps == 0)
        link.report(report)
        if state.step % course.evaluate_every == 0 or state.step == course.steps:
            mrr10 = trainer.evaluate()
            if mrr10 is not None:
                link.report({"step": state.step, "mrr10": mrr10})
            due = True
        if due:
            link.save(trainer.save, {"step": state.step})
            saved_at, saved = time.monotonic(), True
    if not saved:
        # Taken up from a run that was over: say so, or there would be no checkpoint to go on with.
        link.save(trainer.save, {"step": state.step})


def _local_data(area: FileArea) -> Path:
    """A local folder with the training set; from a remote store it is copied once per machine."""
    if area.is_local:
        return area.root / DATA_FOLDER
    folder = cache_root() / "training" / area.uri.rsplit("/", 1)[-1]
    for name in (*FILES, DEV_FILE):
        if not (folder / name).exists() and area.exists(f"{DATA_FOLDER}/{name}"):
            area.download(f"{DATA_FOLDER}/{name}", folder / name)
    return folder
