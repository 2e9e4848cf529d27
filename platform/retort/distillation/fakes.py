"""Judgements with checkable answers, and trainers on a small world; for tests of this room and of those behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.distillation.collate import Collator
from retort.distillation.course import Course
from retort.distillation.dev_pool import DevPool
from retort.distillation.filtering import FalseNegativeFilter
from retort.distillation.prepare import Coverage, prepare, prepare_dev
from retort.distillation.trainer import DistilTrainer
from retort.distillation.training_set import TrainingSet
from retort.distillation.word_targets import WordTargets
from retort.models.backend import training_token_budget
from retort.models.dual_encoder import DualEncoder
from retort.models.fakes import FakeCrossEncoder
from retort.models.judgements import Judgements
from retort.store import Artefact, Store
from retort.store.schemas import JUDGEMENT
from retort.teaching.optimising import set_dropout

__all__ = ["publish_judgements", "small_course", "small_dev_pool", "small_trainer", "small_training_set"]


def publish_judgements(
    store: Store, world: Mapping[str, Artefact], *, scale: float = 2.0, name: str = "small"
) -> Artefact:
    """Judge the candidates with `FakeCrossEncoder` (`scale` times the number of shared words) and publish it.

    `world` holds corpus, queries and candidates, such as `teaching.fakes.publish_small_world` gives.
    """
    queries, passages = QuerySet.open(world["queries"]), Passages.open(world["corpus"])
    texts = dict(zip(queries.ids, queries.texts, strict=True))
    draft = store.draft("judgements", name, step="fake", inputs=world, config={"scale": scale})
    rows = 0
    with draft:
        for part in world["candidates"].parts():
            table = world["candidates"].part(part, columns=["query_id", "passage_id"])
            pairs = list(zip(table.column("query_id").to_pylist(), table.column("passage_id").to_pylist(), strict=True))
            verdicts = FakeCrossEncoder().judge([(texts[q], passages.texts([p])[0]) for q, p in pairs])
            assert verdicts.word_maps is not None
            judged = [
                {"query_id": q, "passage_id": p, "content_hash": "", "score": scale * float(score), "window": 0, "trust": 1.0,
                 "word_map": one.to_bytes()}
                for (q, p), score, one in zip(pairs, verdicts.scores, verdicts.word_maps, strict=True)
            ]  # fmt: skip
            draft.write_table(part, pa.Table.from_pylist(judged, schema=JUDGEMENT))
            rows += len(judged)
        return draft.publish(rows=rows)


def small_course(**changes: Any) -> Course:
    """Eight steps of eight queries with all three losses, in one chunk."""
    course = Course(
        steps=8,
        batch_queries=8,
        negatives=2,
        pool="all",
        similar=1,
        contrastive_weight=1.0,
        sentence_weight=0.5,
        word_weight=0.3,
        sentence_loss="kl",
        temperature=0.05,
        student_temperature=0.05,
        teacher_temperature=1.0,
        word_temperature=1.0,
        learning_rate=1e-3,
        weight_decay=0.01,
        warmup_share=0.1,
        clip_norm=1.0,
        round=0,
        rounds=1,
        evaluate_every=4,
        patience=100,
        seed=13,
        chunk_tokens=100_000,
        forward_tokens=200,
        precision="fp32",
    )
    return Course(**{**asdict(course), **changes})


def small_training_set(world: Mapping[str, Artefact], base: Path, **changes: Any) -> tuple[TrainingSet, Coverage]:
    """`prepare` on a small world with its judgements; `changes` replace its arguments."""
    settings: dict[str, Any] = {
        "queries": QuerySet.open(world["queries"]),
        "passages": Passages.open(world["corpus"]),
        "judgements": Judgements.open(world["judgements"]),
        "encoder": DualEncoder.load(base, device="cpu", precision="fp32"),
        "false_negatives": FalseNegativeFilter(),
        "negatives": 2,
        "use_unlabelled": True,
        "use_unjudged": True,
        "words": True,
        "passage_vectors": None,
        "similar": False,
    }
    return prepare(**{**settings, **changes})


def small_dev_pool(world: Mapping[str, Artefact], base: Path) -> DevPool:
    """Sixteen queries against thirty passages."""
    pool = prepare_dev(
        queries=QuerySet.open(world["queries"]),
        passages=Passages.open(world["corpus"]),
        candidates=world["candidates"],
        encoder=DualEncoder.load(base, device="cpu", precision="fp32"),
        most_queries=16,
        pool_size=30,
        seed=1,
    )
    assert pool is not None
    return pool


def small_trainer(
    world: Mapping[str, Artefact],
    base: Path,
    course: Course,
    *,
    rank: int = 0,
    workers: int = 1,
    dropout: float = 0.0,
    data: TrainingSet | None = None,
    dev: DevPool | None = None,
) -> DistilTrainer:
    """A trainer without Ray; with several workers torch's process group must be up."""
    student = DualEncoder.load(base, device="cpu", precision="fp32")
    set_dropout(student.model, dropout)
    collator = Collator(
        data := data or small_training_set(world, base, similar=course.similar > 1)[0],
        padding=int(student.tokenizer.pad_token_id or 0),
        chunk_tokens=course.chunk_tokens,
        forward_tokens=course.forward_tokens or training_token_budget(student.device),
        word_targets=WordTargets(Judgements.open(world["judgements"])) if course.word_weight else None,
    )
    return DistilTrainer(student, data, course, collator, dev, rank=rank, world=workers)
