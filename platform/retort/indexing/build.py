"""The step `index`: embeddings become FAISS shards.

    index(config) -> index     shard-NNNNN.faiss, ids-NNNNN.parquet, index.json

One quantiser is trained on a sample where the kind needs one; shards are built in parallel from it, each checked after
writing. index.json says what the shards are and how they are searched; `search.py` reads it. Same inputs, same bytes on a CPU:
every shard is built with a fixed number of threads, which is part of the key.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any

from pydantic import Field, model_validator

from retort.config import JobConfig, Ref
from retort.errors import ConfigError, CorruptError, InputError
from retort.indexing.kinds import IndexPlan, Refine, plan_index
from retort.indexing.shards import TRAINING_SCRATCH, ids_name, shard_name, shard_rows
from retort.indexing.tune import TuneGoal
from retort.indexing.vectors import EmbeddingFacts, check_ids, facts, part_rows, with_corpus
from retort.progress import QUIET, Progress
from retort.store import Artefact, Draft, inherited, open_store

__all__ = ["IndexConfig", "index"]

log = logging.getLogger(__name__)

LAYOUT = 1


class IndexConfig(JobConfig):
    """Which index is built."""

    embeddings: Annotated[str, Ref("embeddings")] = Field(description="Embeddings artefact to index.")
    kind: str = Field(
        "auto",
        min_length=1,
        description="auto (by count, dimension, memory and recall), flat, hnsw, hnsw-sq8, hnsw-sq6, ivf-flat, ivf-sq8, ivf-rabitq, ivf-pq, "
        "or a FAISS factory string.",
    )
    recall: float = Field(
        0.95,
        gt=0,
        le=1,
        description="Share of the exact ten best that searches should find; kind auto and refine follow it.",
    )
    refine: Refine = Field(
        "auto",
        description="Candidates per hit that are scored exactly from the stored float16 vectors: auto (where the codes need it), off, or a factor.",
    )
    tune: str | None = Field(
        None,
        description="Measure how far to look for a recall: recall@10=0.95 finds nprobe or efSearch, and the refine factor.",
    )
    tune_queries: Annotated[str | None, Ref("queries")] = Field(
        None,
        description="Queries to tune on, such as <corpus>.dev, encoded by the embeddings' own encoder. Default: made from passages.",
    )
    tune_count: int = Field(1000, ge=20, description="Queries to tune on at most; half choose, half judge.")
    shards: int = Field(2, ge=1, le=10_000, description="Number of shards; each is built and searched on its own.")
    threads: int = Field(
        1,
        ge=1,
        description="FAISS threads that build each shard. With more than one, a graph (hnsw) differs from run to run.",
    )
    memory_gib: float = Field(
        8.0, gt=0, description="Memory that the loaded index may take, in GiB; kind auto keeps to it."
    )
    training_sample: int = Field(
        100_000,
        ge=1,
        description="Vectors that the quantiser is trained on, for kinds that have one; all if there are fewer.",
    )

    @model_validator(mode="after")
    def _tuned_for_something(self) -> IndexConfig:
        if self.tune is not None:
            TuneGoal.parse(self.tune)
        elif self.tune_queries is not None:
            raise ConfigError("tune_queries is given, and tune is not. Say what to reach: tune: recall@10=0.95.")
        return self


def index(config: IndexConfig, progress: Progress = QUIET) -> Artefact:
    """Build the index; return its artefact.

    Raises:
        NotFoundError: no such embeddings, or their corpus is no longer in the store.
        InputError: a recall to tune for that cannot be reached, more shards than passages, a kind that FAISS rejects, duplicate ids, vectors of another dimension, zero or
        not finite.
        CorruptError: a shard as written does not find its own vectors, or the embeddings are not what their manifest says.
    """
    store = open_store(config.store)
    embeddings = store.get(config.embeddings, "embeddings")
    known = facts(embeddings)
    if config.shards > known.count:
        raise InputError(
            f"shards is {config.shards}, and {embeddings} has {known.count} passages. Ask for {known.count} shards at most."
        )
    goal = None if config.tune is None else TuneGoal.parse(config.tune)
    plan = plan_index(
        config.kind,
        known.count,
        known.dimension,
        config.memory_gib * (1 << 30),
        config.recall if goal is None else goal.recall,
        config.refine,
    )
    inputs = with_corpus(embeddings)
    if config.tune_queries is not None:
        inputs["tune_queries"] = store.get(config.tune_queries, "queries")
    draft = store.draft(
        "index",
        config.name or embeddings.name,
        step="index",
        inputs=inputs,
        config=config.identity(),
    )
    done = draft.published
    if done is not None:
        progress.say(f"Index {done.name} is already made.")
        return done
    progress.say(f"Index kind {plan.factory}: {plan.why}.")
    with draft:
        return draft.published or _build(config, draft, inputs, known, plan, goal, progress)


def _build(
    config: IndexConfig,
    draft: Draft,
    inputs: dict[str, Artefact],
    known: EmbeddingFacts,
    plan: IndexPlan,
    goal: TuneGoal | None,
    progress: Progress,
) -> Artefact:
    from retort.indexing.stages import build_shards, train_quantiser, tune_shards  # Ray: only where work is done

    embeddings = inputs["embeddings"]
    parts = part_rows(embeddings)
    if sum(rows for _, rows in parts) != known.count:
        raise CorruptError(
            f"{embeddings} has {sum(rows for _, rows in parts)} rows, its manifest says {known.count}. Embed again."
        )
    check_ids(embeddings)
    cut = shard_rows(parts, config.shards)
    missing = [
        shard for shard in cut if not (draft.has(shard_name(shard.number)) and draft.has(ids_name(shard.number)))
    ]
    if len(missing) < len(cut):
        progress.say(f"Going on: {len(cut) - len(missing)} of {len(cut)} shards are built already.")
    common: dict[str, Any] = {
        "draft": draft,
        "embeddings": embeddings,
        "facts": known,
        "plan": plan,
        "threads": config.threads,
    }
    trained = None
    if plan.trained and missing:
        earlier = [path for path in draft.files() if path.startswith(TRAINING_SCRATCH)]
        trained = earlier[0] if earlier else train_quantiser(config, common, parts, progress)
    stats = build_shards(config, common, missing, trained, progress)

    description: dict[str, Any] = {
        "layout": LAYOUT,
        "factory": plan.factory,
        "exact": plan.exact,
        "metric": "inner_product",
        "similarity": known.similarity,
        "dimension": known.dimension,
        "count": known.count,
        "passage_space": known.passage_space,
        "search": dict(plan.search),
        "shards": [
            {
                "file": shard_name(shard.number),
                "ids": ids_name(shard.number),
                "first_row": shard.first_row,
                "count": shard.count,
            }
            for shard in cut
        ],
    }
    tuned = None if goal is None else tune_shards(config, common, description["shards"], goal, inputs, progress)
    if tuned is not None:
        description["search"] = tuned.pop("search")
        progress.say(f"Tuned: {tuned['goal']} asked, {tuned['recall']:.3f} found with {description['search']}.")
    draft.write_json("index.json", description)
    metrics = {
        "kind": plan.factory,
        "why": plan.why,
        **{name: description[name] for name in ("count", "dimension", "similarity", "passage_space", "search")},
        "shards": len(cut),
        "reproducible": config.threads == 1 or "HNSW" not in plan.factory,
        "own_vectors_found": min((entry["found"] for entry in stats), default=None),
        **({"tuned": tuned} if tuned else {}),
        "build_worker_s": round(sum(entry["seconds"] for entry in stats), 2),
    }
    return draft.publish(rows=known.count, metrics=metrics, **inherited([embeddings]))
