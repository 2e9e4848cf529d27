"""The shell that trains a teacher in each worker of Ray Train; everything it does is in `trainer.py`.

`WorkerLink()` alone runs it in one process without Ray, which is how the unit tests call it.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from retort.models.backend import shared_precision
from retort.models.cross_encoder import CrossEncoder
from retort.runtime.loop import WorkerLink
from retort.store import Artefact, cache_root
from retort.store.files import FileArea
from retort.teaching.optimising import freeze, set_dropout
from retort.teaching.trainer import MEASURE, Course, TeacherTrainer
from retort.teaching.training_set import TrainingSet

__all__ = ["DATA_FOLDER", "initial_teacher", "teach"]

DATA_FOLDER = "_data"  # scratch folder of the draft with the training set


def teach(settings: dict[str, Any], link: WorkerLink) -> None:
    """Train until the course ends or the held-out nDCG@10 stops rising.

    `settings`: base (encoder artefact), frozen (patterns), dropout, course (fields of Course), area (the draft's FileArea), max_tokens.
    """
    course = Course(**settings["course"])
    data = TrainingSet.open(_local_data(settings["area"]))
    teacher = initial_teacher(settings["base"], course.seed, settings["max_tokens"])
    module: nn.Module = teacher.model
    freeze(module, settings["frozen"])
    set_dropout(module, settings["dropout"])
    # Decided here and not by the driver, whose machine may be another.
    course = replace(course, precision=shared_precision(teacher.device, course.precision))
    parallel: nn.Module | None = None
    if link.world_size > 1:
        # A worker makes as many passes in a step as its pairs need: broadcasts in each of them would not meet.
        parallel = nn.parallel.DistributedDataParallel(module, broadcast_buffers=False)
    trainer = TeacherTrainer(
        module, data, course, device=teacher.device, rank=link.rank, world=link.world_size, parallel=parallel
    )
    with link.restored() as folder:
        if folder is not None:
            trainer.load(folder)
    pairs = course.batch_queries * (1 + course.negatives + course.random_negatives)
    while not trainer.finished:
        began = time.monotonic()
        loss = trainer.step()
        step = trainer.state.step
        link.report({"step": step, "loss": loss, "pairs_per_s": pairs / (time.monotonic() - began)})
        if step % course.evaluate_every == 0 or step == course.steps:
            ndcg = trainer.evaluate()
            trainer.record(ndcg)
            link.report({"step": step, "loss": loss, MEASURE: ndcg})
            link.save(trainer.save, {"step": step, MEASURE: ndcg})


def initial_teacher(base: Artefact, seed: int, max_tokens: int) -> CrossEncoder:
    """Return the cross-encoder that training starts from: the encoder's body under a new head drawn from `seed`."""
    return CrossEncoder.from_encoder(base.local(), seed=seed, max_tokens=max_tokens)


def _local_data(area: FileArea) -> Path:
    """Return a local folder with the training set; from a remote store it is copied once per machine."""
    if area.is_local:
        return area.root / DATA_FOLDER
    folder = cache_root() / "training" / area.uri.rsplit("/", 1)[-1]
    if not TrainingSet.exists(folder):
        names = [item.path for item in area.list(DATA_FOLDER)]
        # done.json last: its presence says that the copy is whole.
        for name in sorted(names, key=lambda name: name.endswith("done.json")):
            area.download(name, folder / name.removeprefix(f"{DATA_FOLDER}/"))
    return folder
