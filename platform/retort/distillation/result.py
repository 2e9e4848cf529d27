"""What a distillation publishes: the student with its card, its audit, its curve, and the figures in its manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retort.corpus.queries import QuerySet
from retort.distillation.card import CardFacts, model_card
from retort.distillation.config import DistilConfig
from retort.distillation.course import Course
from retort.distillation.dev_pool import DevPool
from retort.distillation.filtering import FalseNegativeFilter
from retort.distillation.prepare import Coverage
from retort.distillation.student_audit import AUDIT_FILE, audit_student
from retort.errors import IncompatibleError
from retort.models.dual_encoder import DualEncoder
from retort.progress import Progress
from retort.store import Artefact, Draft, inherited

__all__ = ["Trained", "publish_student", "teacher_of"]


@dataclass(frozen=True)
class Trained:
    """What training leaves behind."""

    student: DualEncoder  # with its best weights
    reader: DualEncoder  # the base, cutting texts as training did
    state: Mapping[str, Any]  # of the last checkpoint
    course: Course
    coverage: Coverage
    filtered: FalseNegativeFilter
    dev: DevPool | None
    searched: Mapping[str, Any] | None = None  # what the search found and tried


def teacher_of(judgements: Artefact) -> tuple[str, str]:
    """(digest, name) of the teacher that judged; IncompatibleError where nothing says so."""
    for record in judgements.manifest.inputs:
        if record.role == "teacher":
            return record.digest, record.name
    raise IncompatibleError(
        f"{judgements} does not say which teacher judged, so no audit can speak for it. Score the candidates again, or leave teacher_audit out."
    )


def publish_student(
    config: DistilConfig, draft: Draft, inputs: Mapping[str, Artefact], trained: Trained, progress: Progress
) -> Artefact:
    """Measure the student, write its folder, publish."""
    student, state = trained.student, trained.state
    metrics = _metrics(trained)
    if trained.dev is not None:
        at_start = state["history"][0]["mrr10"]
        metrics |= _against_base(at_start if _same(config) else trained.dev.evaluate(trained.reader), state)
    audited = _audited(config, inputs, trained, progress)
    if audited is not None:
        metrics["lost_slices"] = [f"{row['by']} {row['label']}" for row in audited["lost"]]
    if trained.searched is not None:
        metrics["search"] = trained.searched
    provenance = inherited(inputs.values())
    facts = CardFacts(
        draft.name, inputs, config.identity(), metrics, provenance["licences"], provenance["personal_data"]
    )
    with draft.folder_for() as target:
        student.save(target)
        (target / "README.md").write_text(model_card(student, facts, audited), encoding="utf-8")
        (target / "training_curve.json").write_text(json.dumps(_curve(state)))
        if audited is not None:
            (target / AUDIT_FILE).write_text(json.dumps(audited), encoding="utf-8")
    times = {
        "examples_per_s": round(trained.course.batch_queries * state["step"] / max(state["busy_s"], 1e-9), 2),
        "data_wait_share": round(state["wait_s"] / max(state["busy_s"], 1e-9), 4),
        "training_s": round(state["busy_s"], 1),
    }
    if metrics["better_than_base"] is False:
        progress.say(
            f"The student is not better than its base on the dev pool: MRR@10 {metrics['dev_mrr10_student']:.4f} against {metrics['dev_mrr10_base']:.4f}."
        )
    return draft.publish(metrics={**metrics, **times}, **provenance)


def _audited(
    config: DistilConfig, inputs: Mapping[str, Artefact], trained: Trained, progress: Progress
) -> dict[str, Any] | None:
    """The teacher's audit, on the student; None where no audit is named."""
    audit = inputs.get("teacher_audit")
    if audit is None:
        return None
    # Loaded anew: the reader cuts texts as training did, while the student reads as much as it can.
    base = DualEncoder.load(inputs["base"].local(), precision=config.precision)
    with progress.task("auditing the student"):
        return audit_student(
            audit, teacher_of(inputs["judgements"]), trained.student, base, QuerySet.open(inputs["queries"]).texts, config.seed
        )  # fmt: skip


def _same(config: DistilConfig) -> bool:
    """Whether the student starts as its base, so that its first evaluation is the base's."""
    return config.start is None and config.layers is None


def _against_base(base: float, state: Mapping[str, Any]) -> dict[str, Any]:
    student = state["best_mrr10"]
    return {
        "dev_mrr10_base": round(base, 5),
        "dev_mrr10_student": round(student, 5),
        "better_than_base": student > base,
    }


def _metrics(trained: Trained) -> dict[str, Any]:
    """What is known after training, times left out."""
    state, dev = trained.state, trained.dev
    return {
        "passage_space": trained.student.passage_space,
        "dev_mrr10_base": None,
        "dev_mrr10_student": None,
        "better_than_base": None,
        "dev_queries": len(dev) if dev is not None else 0,
        "dev_passages": len(dev.passages) if dev is not None else 0,
        "steps": state["step"],
        "best_step": state["best_step"],
        "history": state["history"],
        "first_loss": round(state["curve"][0][0], 5),
        "last_loss": round(state["curve"][-1][0], 5),
        "precision": state["precision"],
        "filter": trained.filtered.audit,
        **trained.coverage.as_metrics(),
    }


def _curve(state: Mapping[str, Any]) -> dict[str, Any]:
    names = ("loss", "contrastive", "sentence", "word", "grad_norm")
    return {name: [round(row[i], 6) for row in state["curve"]] for i, name in enumerate(names)}
