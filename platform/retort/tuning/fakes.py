"""A small world in two languages that a tiny query encoder can be tuned on; for tests of this room and of those behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from retort.corpus.lookup import Passages
from retort.corpus.passages import content_hash
from retort.corpus.queries import QuerySet
from retort.indexing.vectors import VectorStore
from retort.models.backend import training_token_budget
from retort.models.dual_encoder import DualEncoder
from retort.models.fakes import tiny_encoder
from retort.models.imports import encoder_artefact
from retort.models.judgements import Judgements
from retort.store import Artefact, Store
from retort.store.schemas import PASSAGE, QREL, QUERY, embedding_schema, part_name
from retort.teaching.fakes import SMALL_WORDS
from retort.teaching.optimising import set_dropout
from retort.tuning.batches import BatchMaker
from retort.tuning.course import Course, look_steps
from retort.tuning.freezing import freeze_weights
from retort.tuning.prepare import Coverage, prepare
from retort.tuning.trainer import TuneTrainer, Watch
from retort.tuning.training_set import TrainingSet

__all__ = ["publish_embeddings", "publish_two_languages", "small_course", "small_trainer", "small_training_set"]

GERMAN = [f"{word}en" for word in SMALL_WORDS]
_WORDS = {"en-us": SMALL_WORDS, "de": GERMAN}


def publish_two_languages(store: Store, folder: Path, *, sections: int = 80, train: int = 48) -> dict[str, Artefact]:
    """The same sections in en-us and de; a query is three words of its section, and the dev queries ask for sections of their own.

    Returns:
        corpus, encoder (tiny, random, also in `folder`), embeddings; queries (English, of the first `train` sections),
        dev (English, of the others), guard (both languages, of the others).
    """
    generator = np.random.default_rng(5)
    picks = [generator.choice(len(SMALL_WORDS), size=3, replace=False) for _ in range(sections)]
    rests = [generator.choice(len(SMALL_WORDS), size=int(generator.integers(1, 7))) for _ in range(sections)]
    passages, asked, labels = [], [], []
    for lang, words in _WORDS.items():
        for i, (pick, rest) in enumerate(zip(picks, rests, strict=True)):
            name = f"{lang}/s{i}"
            text = " ".join(words[j] for j in [*pick, *rest])
            passages.append(
                {"passage_id": name, "text": text, "title": "", "lang": lang, "section": f"m{i % 2}", "doc_id": name,
                 "content_hash": content_hash("", text), "fields": json.dumps({"folder": f"f{i % 4}"})}
            )  # fmt: skip
            asked.append(
                {"query_id": name, "text": " ".join(words[j] for j in pick), "lang": lang, "origin": "user", "fields": "{}"}
            )  # fmt: skip
            labels.append({"query_id": name, "passage_id": name, "grade": 1})
    corpus = _publish(store, "corpus", "two", {part_name(0): pa.Table.from_pylist(passages, schema=PASSAGE)}, {})
    english = [row["query_id"] for row in asked if row["lang"] == "en-us"]
    splits = {
        "queries": english[:train],
        "dev": english[train:],
        "guard": [row["query_id"] for row in asked if int(row["query_id"].split("/s")[1]) >= train],
    }
    made = {"corpus": corpus}
    for name, ids in splits.items():
        tables = {
            "queries.parquet": pa.Table.from_pylist([row for row in asked if row["query_id"] in ids], schema=QUERY),
            "qrels.parquet": pa.Table.from_pylist([row for row in labels if row["query_id"] in ids], schema=QREL),
        }
        made[name] = _publish(store, "queries", f"two.{name}", tables, {"corpus": corpus})
    tiny_encoder(folder, [*SMALL_WORDS, *GERMAN])
    made["encoder"] = encoder_artefact(str(folder), store)
    return {**made, "embeddings": publish_embeddings(store, corpus, made["encoder"])}


def publish_embeddings(store: Store, corpus: Artefact, encoder: Artefact, name: str = "two") -> Artefact:
    """Vectors of all passages, as the step `embed` makes them, without Ray."""
    model = DualEncoder.load(encoder.local(), device="cpu", precision="fp32")
    passages = Passages.open(corpus)
    half = model.encode(list(passages.iter_texts()), "passage").astype(np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(half.reshape(-1)), half.shape[1])
    hashes = passages.column("content_hash").combine_chunks()
    table = pa.Table.from_arrays([pa.array(passages.ids), column, hashes], schema=embedding_schema(half.shape[1]))
    facts = {
        "count": len(half), "dimension": half.shape[1], "passage_space": model.passage_space,
        "similarity": "cosine" if model.normalise else "inner_product",
    }  # fmt: skip
    inputs = {"corpus": corpus, "encoder": encoder}
    return _publish(store, "embeddings", name, {part_name(0): table}, inputs, facts)


def small_course(**changes: Any) -> Course:
    """Eight steps of eight queries with the triplet loss, and two looks."""
    course = Course(
        steps=8,
        batch_queries=8,
        negatives=3,
        random_share=0.34,
        loss="triplet",
        margin=0.1,
        temperature=0.05,
        teacher_temperature=1.0,
        learning_rate=1e-3,
        warmup_steps=0,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        clip_norm=None,
        master="float64",
        look_at=look_steps(changes.get("steps", 8), 2),
        planned_looks=2,
        guarded=True,
        seed=13,
        forward_tokens=64,
        precision="fp32",
    )
    return Course(**{**asdict(course), **changes})


def small_training_set(world: Mapping[str, Artefact], **changes: Any) -> tuple[TrainingSet, Coverage]:
    """`prepare` on the world of two languages; `changes` replace its arguments."""
    judgements = world.get("judgements")
    settings: dict[str, Any] = {
        "queries": QuerySet.open(world["queries"]),
        "passages": Passages.open(world["corpus"]),
        "vectors": VectorStore.open(world["embeddings"]),
        "encoder": DualEncoder.load(world["encoder"].local(), device="cpu", precision="fp32"),
        "judgements": Judgements.open(judgements) if judgements is not None else None,
        "most_queries": 1000,
        "hard_depth": 10,
        "false_negative_cut": None,
        "seed": 13,
    }
    return prepare(**{**settings, **changes})


def small_trainer(
    world: Mapping[str, Artefact],
    course: Course,
    *,
    data: TrainingSet | None = None,
    guard: Watch | None = None,
    frozen: Sequence[str] = ("embeddings",),
    rank: int = 0,
    workers: int = 1,
) -> TuneTrainer:
    """A trainer without Ray; with several workers torch's process group must be up."""
    encoder = DualEncoder.load(world["encoder"].local(), device="cpu", precision="fp32")
    freeze_weights(encoder.model, frozen)
    set_dropout(encoder.model, 0.0)
    batches = BatchMaker(
        data or small_training_set(world)[0],
        VectorStore.open(world["embeddings"]),
        batch_queries=course.batch_queries,
        negatives=course.negatives,
        random_share=course.random_share,
        loss=course.loss,
        padding=int(encoder.tokenizer.pad_token_id or 0),
        seed=course.seed,
        forward_tokens=course.forward_tokens or training_token_budget(encoder.device),
    )
    return TuneTrainer(encoder, batches, course, guard, rank=rank, world=workers)


def _publish(
    store: Store,
    kind: str,
    name: str,
    tables: Mapping[str, pa.Table],
    inputs: Mapping[str, Artefact],
    metrics: dict[str, Any] | None = None,
) -> Artefact:
    draft = store.draft(kind, name, step="fake", inputs=inputs, config={"name": name})
    with draft:
        for path, table in tables.items():
            draft.write_table(path, table)
        return draft.publish(rows=sum(table.num_rows for table in tables.values()), metrics=metrics)
