"""Mining on Ray Data: a pool of actors, each with BM25 and the encoder open, each doing whole parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.mining.bm25 import Bm25
from retort.mining.candidates import PartMiner, TextSearch, query_sample
from retort.mining.dense import DenseSearch
from retort.progress import Progress
from retort.runtime.stages import map_parts
from retort.store import Artefact, Draft
from retort.store.schemas import PART_QUERIES

if TYPE_CHECKING:
    from retort.mining.mine import MineConfig

__all__ = ["MiningActor", "mine_parts"]


class MiningActor:
    """Opens what candidates come from once, then mines the parts it is given."""

    def __init__(self, draft: Draft, inputs: Mapping[str, Artefact], config: MineConfig, threads: int) -> None:
        searches: dict[str, tuple[TextSearch, int]] = {}
        if config.bm25_k:
            bm25 = Bm25.open(inputs["corpus"], k1=config.bm25_k1, b=config.bm25_b, method=config.bm25_method)
            searches["bm25"] = (bm25, config.bm25_k)
        if config.dense_k:
            vectors = inputs["index"] if "index" in inputs else inputs["embeddings"]
            searches["dense"] = (
                DenseSearch.open(inputs["encoder"], vectors, threads, config.precision),
                config.dense_k,
            )
        self._miner = PartMiner(
            draft=draft,
            queries=query_sample(QuerySet.open(inputs["queries"]), config.max_queries, config.seed),
            passages=Passages.open(inputs["corpus"]),
            searches=searches,
            random_k=config.random_k,
            include_labelled=config.include_labelled,
            seed=config.seed,
        )

    def __call__(self, part: str) -> dict[str, Any]:
        """Mine one part; returns numbers about it."""
        return self._miner(part)


def mine_parts(
    config: MineConfig,
    draft: Draft,
    inputs: Mapping[str, Artefact],
    parts: Sequence[str],
    queries: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Mine `parts`; returns {queries, rows, pairs, seconds} of each."""
    threads = config.resources.resolve().threads
    # All parts but the last hold as many queries as a part can.
    weights = {part: float(min(PART_QUERIES, queries - int(part[5:10]) * PART_QUERIES)) for part in parts}
    return map_parts(
        MiningActor,
        {"draft": draft, "inputs": dict(inputs), "config": config, "threads": threads},
        parts,
        config.resources,
        describe="mining candidates",
        progress=progress,
        weights=weights,
    )
