"""Embedding and shard building on Ray Data: pools of actors, each doing whole parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from retort.indexing.embedder import open_embedder
from retort.indexing.reuse import Reuse
from retort.indexing.shards import QuantiserTrainer, ShardBuilder, ShardRows, shard_name
from retort.indexing.tune import ShardTuner, TuneGoal
from retort.indexing.vectors import part_rows
from retort.models.onnx_graph import Backend
from retort.progress import Progress
from retort.resources import Resources
from retort.runtime.stages import map_parts
from retort.store import Artefact, Draft

if TYPE_CHECKING:
    from retort.indexing.build import IndexConfig
    from retort.indexing.embed import EmbedConfig

__all__ = ["EmbeddingActor", "build_shards", "embed_parts", "train_quantiser", "tune_shards"]


class EmbeddingActor:
    """Opens the encoder once, then embeds the parts it is given."""

    def __init__(
        self,
        draft: Draft,
        inputs: Mapping[str, Artefact],
        precision: str,
        backend: Backend | Literal["auto"],
        token_budget: int | None,
        reuse: Reuse | None,
    ) -> None:
        self._embedder, self._how = open_embedder(draft, inputs, precision, backend, token_budget, reuse)

    def __call__(self, part: str) -> dict[str, Any]:
        """Embed one part; returns numbers about it."""
        return {**self._embedder(part), **self._how}


def embed_parts(
    config: EmbedConfig,
    backend: Backend | Literal["auto"],
    draft: Draft,
    inputs: Mapping[str, Artefact],
    parts: Sequence[str],
    progress: Progress,
    reuse: Reuse | None = None,
    precision: str | None = None,
) -> list[dict[str, Any]]:
    """Embed `parts`; returns {passages, encoded, encode_s, seconds, backend, precision} of each."""
    wanted = set(parts)
    settings = {
        "draft": draft,
        "inputs": dict(inputs),
        "precision": precision or config.precision,
        "backend": backend,
        "token_budget": config.token_budget,
        "reuse": reuse,
    }
    return map_parts(
        EmbeddingActor,
        settings,
        parts,
        config.resources,
        describe="embedding passages",
        progress=progress,
        weights={part: float(count) for part, count in part_rows(inputs["corpus"]) if part in wanted},
    )


def train_quantiser(
    config: IndexConfig, common: Mapping[str, Any], parts: Sequence[tuple[str, int]], progress: Progress
) -> str:
    """Train on a sample; returns where in the draft the trained index is."""
    settings = {**common, "parts": list(parts), "sample": config.training_sample, "seed": config.seed}
    (stats,) = map_parts(
        QuantiserTrainer,
        settings,
        ["quantiser"],
        _on_cpus(config.resources),
        describe="training the quantiser",
        progress=progress,
    )
    return str(stats["path"])


def build_shards(
    config: IndexConfig, common: Mapping[str, Any], shards: Sequence[ShardRows], trained: str | None, progress: Progress
) -> list[dict[str, Any]]:
    """Build `shards` in parallel; returns {count, found, seconds} of each."""
    return map_parts(
        ShardBuilder,
        {**common, "shards": list(shards), "trained": trained},
        [shard_name(shard.number) for shard in shards],
        _on_cpus(config.resources),
        describe="building shards",
        progress=progress,
        weights={shard_name(shard.number): float(shard.count) for shard in shards},
    )


def tune_shards(
    config: IndexConfig,
    common: Mapping[str, Any],
    shards: Sequence[Mapping[str, Any]],
    goal: TuneGoal,
    inputs: Mapping[str, Artefact],
    progress: Progress,
) -> dict[str, Any]:
    """Find the search settings that reach the goal; `shards` are entries of index.json."""
    settings = {name: common[name] for name in ("draft", "embeddings", "plan")} | {
        "shards": list(shards),
        "goal": goal,
        "queries": inputs.get("tune_queries"),
        "asked": config.tune_count,
        "seed": config.seed,
        "factor": None if config.refine == "auto" else 0 if config.refine == "off" else config.refine,
    }
    (found,) = map_parts(
        ShardTuner, settings, ["tuning"], _on_cpus(config.resources), describe="tuning the search", progress=progress
    )
    return found


def _on_cpus(resources: Resources) -> Resources:
    # Shards are built on CPUs so far, so no GPU is held idle.
    return resources.model_copy(update={"gpus_per_worker": 0.0})
