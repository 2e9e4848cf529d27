"""The step `mine`: passages that could be mistaken for a query's answer, and those that are known to be it.

    mine(config) -> candidates     parts of PART_QUERIES queries, in query order; rows as candidates.py says

The work is cut by part: a killed run goes on with the parts that are missing.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any

from pydantic import Field, model_validator

from retort.config import JobConfig, Ref
from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.errors import IncompatibleError, InputError
from retort.mining.bm25 import K1, B, Bm25, Method
from retort.mining.candidates import query_parts, query_sample
from retort.models.imports import encoder_artefact
from retort.progress import QUIET, Progress
from retort.store import Artefact, Draft, Store, inherited, open_store

__all__ = ["MineConfig", "mine"]

log = logging.getLogger(__name__)


class MineConfig(JobConfig):
    """Where candidates come from, and how many."""

    corpus: Annotated[str, Ref("corpus")] = Field(description="Corpus artefact to find passages in.")
    queries: Annotated[str, Ref("queries")] = Field(description="Queries artefact to find passages for.")
    embeddings: Annotated[str | None, Ref("embeddings")] = Field(
        None, description="Embeddings of the corpus, searched exactly for the dense candidates."
    )
    index: Annotated[str | None, Ref("index")] = Field(
        None,
        description="Index of the corpus, searched in place of the embeddings: for corpora of millions of passages.",
    )
    encoder: Annotated[str | None, Ref("encoder")] = Field(
        None,
        description="Encoder of the queries, of the embeddings' passage space. Default: the one that made the embeddings.",
    )
    bm25_k: int = Field(30, ge=0, le=10_000, description="Candidates per query from BM25; 0: none.")
    dense_k: int = Field(30, ge=0, le=10_000, description="Candidates per query from the encoder; 0: none.")
    random_k: int = Field(
        5, ge=0, le=10_000, description="Candidates per query drawn at random from the rest; 0: none."
    )
    max_queries: int | None = Field(
        None,
        ge=1,
        description="Mine for a random sample of at most this many queries, to bound the cost of judging. Default: all.",
    )
    include_labelled: bool = Field(
        True, description="Whether the passages labelled relevant are candidates, so that the teacher judges them."
    )
    bm25_k1: float = Field(K1, ge=0, le=10, description="BM25's k1: how fast repeated words stop counting.")
    bm25_b: float = Field(B, ge=0, le=1, description="BM25's b: how much a long passage is discounted.")
    bm25_method: Method = Field("lucene", description="Variant of the BM25 formula.")
    precision: str = Field(
        "auto", pattern="^(auto|fp32|bf16)$", description="Arithmetic of the query encoder; auto: measured."
    )

    @model_validator(mode="after")
    def _has_sources(self) -> MineConfig:
        if self.dense_k and not (self.embeddings or self.index):
            raise ValueError("dense_k is not 0, so embeddings or an index are needed; name them, or set dense_k to 0")
        if self.embeddings and self.index:
            raise ValueError(
                "embeddings and index are both given; an index is searched in place of embeddings, so name one"
            )
        if not (self.bm25_k or self.dense_k or self.random_k):
            raise ValueError("bm25_k, dense_k and random_k are all 0, so there is nothing to find; set one of them")
        return self


def mine(config: MineConfig, progress: Progress = QUIET) -> Artefact:
    """Find candidates for all queries; return their artefact.

    Raises:
        NotFoundError: an input is not in the store, or the qrels name a passage that the corpus does not have.
        IncompatibleError: queries or vectors of another corpus, or an encoder of another passage space.
        InputError: no queries.
    """
    store = open_store(config.store)
    inputs = _inputs(config, store)
    draft = store.draft(
        "candidates", config.name or inputs["queries"].name, step="mine", inputs=inputs, config=config.identity()
    )
    done = draft.published
    if done is not None:
        progress.say(f"Candidates {done.name} are already made.")
        return done
    queries = query_sample(QuerySet.open(inputs["queries"]), config.max_queries, config.seed)
    passages = Passages.open(inputs["corpus"])
    if not len(queries):
        raise InputError(f"{inputs['queries']} has no queries, so there is nothing to mine for.")
    if config.include_labelled:
        passages.rows(dict.fromkeys(passage for query_id in queries.ids for passage in queries.positives(query_id)))
    if config.bm25_k:
        # Into the node cache, once, before several workers would each begin to build it.
        Bm25.open(inputs["corpus"], k1=config.bm25_k1, b=config.bm25_b, method=config.bm25_method, progress=progress)
    with draft:
        return draft.published or _mine(config, draft, inputs, len(queries), progress)


def _mine(config: MineConfig, draft: Draft, inputs: dict[str, Artefact], queries: int, progress: Progress) -> Artefact:
    """Mine the parts that are missing, and publish."""
    from retort.mining.stages import mine_parts  # Ray: only where work is done, so that --help stays quick

    parts = query_parts(queries)
    missing = [part for part in parts if not draft.has(part)]
    if len(missing) < len(parts):
        progress.say(f"Going on: {len(parts) - len(missing)} of {len(parts)} parts are mined already.")
    stats = mine_parts(config, draft, inputs, missing, queries, progress)
    counts: dict[str, int] = {}
    pairs = rows = 0
    for part in parts:
        table = draft.read_table(part, columns=["query_id", "passage_id", "source"])
        rows += table.num_rows
        pairs += len(
            set(zip(table.column("query_id").to_pylist(), table.column("passage_id").to_pylist(), strict=True))
        )
        for entry in table.column("source").value_counts().to_pylist():
            counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
    if not rows:
        raise InputError(
            f"Not one of {queries} queries has a candidate: no word of theirs is in {inputs['corpus']}. Set dense_k or random_k."
        )
    metrics: dict[str, Any] = {
        "queries": queries,
        "pairs": pairs,
        "pairs_per_query": round(pairs / queries, 2),
        "sources": dict(sorted(counts.items())),
        "worker_s": {
            source: round(sum(entry["seconds"].get(source, 0.0) for entry in stats), 2) for source in ("bm25", "dense")
        },
    }
    return draft.publish(rows=rows, metrics=metrics, **inherited(inputs.values()))


def _inputs(config: MineConfig, store: Store) -> dict[str, Artefact]:
    """The artefacts by role, after checking that they belong together."""
    corpus = store.get(config.corpus, "corpus")
    queries = store.get(config.queries, "queries")
    _same_corpus(queries, queries, corpus)
    inputs = {"corpus": corpus, "queries": queries}
    if config.dense_k:
        role = "index" if config.index else "embeddings"
        vectors = store.get(config.index or config.embeddings or "", role)
        embeddings = vectors.input("embeddings") if role == "index" else vectors
        _same_corpus(vectors, embeddings, corpus)
        encoder = encoder_artefact(config.encoder, store) if config.encoder else embeddings.input("encoder")
        theirs, ours = encoder.metrics.get("passage_space"), vectors.metrics.get("passage_space")
        if theirs is not None and theirs != ours:
            raise IncompatibleError(
                f"{encoder} scores in passage space {theirs[:12]}, {vectors} is in {str(ours)[:12]}. "
                "Embed the corpus with this encoder, or leave `encoder` out to take the one that made the embeddings."
            )
        inputs |= {role: vectors, "encoder": encoder}
    return inputs


def _same_corpus(what: Artefact, bound: Artefact, corpus: Artefact) -> None:
    found = next((record.digest for record in bound.manifest.inputs if record.role == "corpus"), "unknown")
    if found != corpus.digest:
        raise IncompatibleError(
            f"{what} belongs to corpus {found[:12]}, and {corpus} is {corpus.digest[:12]}. Name queries and vectors of one corpus."
        )
