"""What a new index must show before a release may serve it.

    index_recall(index, ...)        recall@10 against exact search over the same vectors, on a sample of queries
    compare_quality(...)            nDCG@10 of the old release and of the new one on the same labelled queries
    check_release_canaries(...)     stored queries that must find one of their passages

Each gives numbers or raises; `reindex.py` decides and says them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.errors import CorruptError, InputError
from retort.indexing.exact import ExactIndex
from retort.indexing.search import ShardedIndex
from retort.indexing.tune import made_queries, recall_of
from retort.indexing.vectors import VectorStore
from retort.metrics.measures import evaluate, mean
from retort.models.dual_encoder import DualEncoder
from retort.releases.masks import hidden_rows
from retort.releases.release import Release
from retort.store import Artefact, Store

__all__ = ["Quality", "check_release_canaries", "compare_quality", "index_recall", "labelled_queries"]

K = 10
MEASURE = "ndcg@10"
FEWEST = 5


@dataclass(frozen=True)
class Quality:
    """nDCG@10 of two releases on the same queries."""

    old: float
    new: float
    queries: int
    name: str

    @property
    def loss(self) -> float:
        """How far the new one is below the old; negative where it is better."""
        return self.old - self.new


def index_recall(index: Artefact, sample: int, seed: int) -> float:
    """Recall@10 against exact search over the embeddings, of queries made from `sample` passages; no encoder is loaded."""
    embeddings = index.input("embeddings")
    queries = made_queries(VectorStore.open(embeddings), sample, seed)
    found = ShardedIndex.open(index).search(queries, K)
    exact = ExactIndex.open(embeddings)
    truth = exact.search(queries, K)
    width = int((truth.rows[0] >= 0).sum())
    scores = np.full(found.rows.shape, -np.inf, dtype=np.float32)
    store = VectorStore.open(embeddings)
    for query, rows in enumerate(found.rows):
        there = rows >= 0
        scores[query, there] = (
            store.rows(rows[there]) @ queries[query]
        )  # codes' own scores do not compare with exact ones
    return float(recall_of(found.rows, scores, truth.scores[:, :width]).mean())


def labelled_queries(store: Store, corpora: list[Artefact], named: str | None = None) -> Artefact | None:
    """Queries to judge quality on: those named, else the newest `.dev`, else any but `.train`, of one of the corpora; None without any."""
    if named is not None:
        return store.get(named, "queries")
    digests = {corpus.digest for corpus in corpora}
    bound = [
        item
        for item in store.list("queries")
        if "qrels.parquet" in item.files()
        and any(record.kind == "corpus" and record.digest in digests for record in item.manifest.inputs)
    ]
    for wanted in (lambda name: name.endswith(".dev"), lambda name: not name.endswith(".train")):
        fitting = [item for item in bound if wanted(item.name)]
        if fitting:
            return fitting[-1]
    return None


def compare_quality(store: Store, old: Release, new: Release, queries: Artefact, most: int, seed: int) -> Quality:
    """nDCG@10 of both releases' default encoders, on at most `most` queries whose relevant passages both corpora hold.

    Raises InputError if fewer than five such queries are left.
    """
    known = [Passages.open(release.corpus.find(store)) for release in (old, new)]
    asked = QuerySet.open(queries)
    fitting = [
        query_id
        for query_id in asked.labelled
        if all(passage_id in corpus for passage_id in asked.positives(query_id) for corpus in known)
    ]
    if len(fitting) < FEWEST:
        raise InputError(
            f"{queries} has {len(fitting)} labelled queries whose passages are in the old and in the new corpus; at least {FEWEST} are needed to compare "
            "their quality. Name other queries, or leave the comparison out with --max-quality-loss 1."
        )
    chosen = np.sort(np.random.default_rng([seed, 17]).permutation(len(fitting))[:most])
    subset = asked.subset([fitting[place] for place in chosen])
    values = [mean(evaluate(_run(store, release, subset), subset.qrels, [MEASURE])[MEASURE]) for release in (old, new)]
    return Quality(values[0], values[1], len(subset), queries.name)


def check_release_canaries(store: Store, release: Release) -> int:
    """Ask the release's canaries of its new index; returns how many. CorruptError names the first that is not found."""
    for name in release.encoders:
        own = [item for item in release.canaries if (item.encoder or release.default_encoder) == name]
        if not own:
            continue
        ids = _hits(store, release, name, [item.query for item in own], max(item.within for item in own))
        for item, found in zip(own, ids, strict=True):
            if not set(found[: item.within]) & set(item.expect):
                raise CorruptError(
                    f"Canary {item.query!r} expects one of {', '.join(item.expect)} among the first {item.within} hits; "
                    f"they are {', '.join(found[:5]) or 'none'}. Nothing was promoted."
                )
    return len(release.canaries)


def _run(store: Store, release: Release, queries: QuerySet) -> dict[str, dict[str, float]]:
    ids = _hits(store, release, release.default_encoder, queries.texts, K)
    # Ranks as scores: measures break ties otherwise than search does.
    return {
        query_id: {passage_id: float(-rank) for rank, passage_id in enumerate(found)}
        for query_id, found in zip(queries.ids, ids, strict=True)
    }


def _hits(store: Store, release: Release, encoder: str, texts: list[str], k: int) -> list[list[str]]:
    """Passage ids of the k best for each text, masked passages left out."""
    index = ShardedIndex.open(release.index.find(store))
    hidden = hidden_rows(store, release, Passages.open(release.corpus.find(store)))
    index = index if hidden is None else index.hiding(hidden)
    vectors = (
        DualEncoder.load(release.encoders[encoder].find(store).local()).pack(for_queries=True).encode(texts, "query")
    )
    rows: NDArray[np.int64] = index.search(vectors, k).rows
    return [index.passage_ids(found[found >= 0]) for found in rows]
