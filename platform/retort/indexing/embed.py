"""The step `embed`: every passage of a corpus becomes a vector.

    embed(config) -> embeddings     one part per part of the corpus, same name, rows in the same order

The work is cut by part: a killed run goes on with the parts that are missing. Done by `embedder.py`, run by `stages.py`.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal

from pydantic import Field

from retort.config import JobConfig, Ref, plain
from retort.errors import InputError, ModelError
from retort.indexing.embedder import open_embedder
from retort.indexing.reuse import Reuse, check_reusable, plan_reuse
from retort.indexing.vectors import facts
from retort.models.backend import pick_device
from retort.models.dual_encoder import DualEncoder
from retort.models.imports import encoder_artefact
from retort.models.onnx_graph import Backend, check_backend
from retort.progress import QUIET, Progress
from retort.resources import threads_of
from retort.store import Artefact, Draft, inherited, open_store

__all__ = ["EmbedConfig", "embed"]

log = logging.getLogger(__name__)

WORTH_A_GRAPH = 20_000  # passages
ENCODED_HERE = 2000  # passages: about what a worker does in the time that it takes to start
ENOUGH_FOR_A_RATE = 500  # passages


class EmbedConfig(JobConfig):
    """What is embedded, and by which encoder."""

    corpus: Annotated[str, Ref("corpus")] = Field(description="Corpus artefact whose passages are embedded.")
    encoder: Annotated[str, Ref("encoder")] = Field(
        "minilm", description="Encoder artefact, a folder, a Hugging Face id, or 'minilm' from the package index."
    )
    precision: str = Field(
        "auto", pattern="^(auto|fp32|bf16)$", description="Arithmetic of the forward pass; auto: measured."
    )
    backend: Literal["auto", "torch", "onnx", "onnx-int8"] = Field(
        "auto",
        description="What runs the forward pass; auto: for many passages the faster of torch and ONNX Runtime, whose numbers are equal. "
        "onnx-int8 is faster still and costs a little accuracy.",
    )
    reuse: Annotated[str | None, Ref("embeddings")] = plain(
        None,
        description="Embeddings of an earlier corpus by the same encoder: vectors of passages whose text is unchanged are taken over.",
    )
    token_budget: int | None = plain(
        None, ge=64, description="Tokens of one forward pass, padding included. Default: what suits the device."
    )

    def identity(self) -> dict[str, Any]:
        """As every job's; backends with equal numbers do not make another artefact."""
        values = super().identity()
        if self.backend != "onnx-int8":
            del values["backend"]
        return values


def embed(config: EmbedConfig, progress: Progress = QUIET) -> Artefact:
    """Embed all passages; return the embeddings artefact.

    Raises:
        NotFoundError: corpus or encoder is not there.
        ModelError: the encoder cannot be loaded, or is a query encoder over another encoder's passages.
        InputError: a passage cannot be encoded, or its vector is zero or not finite; names the passage.
        IncompatibleError: `reuse` names embeddings of another encoder or of other settings.
    """
    store = open_store(config.store)
    corpus = store.get(config.corpus, "corpus")
    encoder = encoder_artefact(config.encoder, store)
    inputs = {"corpus": corpus, "encoder": encoder}
    name = config.name or f"{corpus.name}-{encoder.name}"[:100]
    draft = store.draft("embeddings", name, step="embed", inputs=inputs, config=config.identity())
    done = draft.published
    if done is not None:
        progress.say(f"Embeddings {done.name} are already made.")
        return done
    source = store.get(config.reuse, "embeddings") if config.reuse else None
    if source is not None:
        check_reusable(source, encoder, config.identity())
    known = _known_facts(source) if source is not None else _passage_encoder_facts(encoder)
    if config.backend != "auto":
        check_backend(config.backend, pick_device())
    with draft:
        return draft.published or _embed(config, draft, inputs, known, source, progress)


def _chosen_backend(config: EmbedConfig, passages: int) -> Backend | Literal["auto"]:
    """What the workers are told: exporting a graph and timing it takes longer than a small corpus in torch."""
    return "torch" if config.backend == "auto" and passages < WORTH_A_GRAPH else config.backend


def _passage_encoder_facts(encoder: Artefact) -> dict[str, Any]:
    """Load the encoder once here, so that one that cannot embed passages is refused before any worker starts."""
    loaded = DualEncoder.load(encoder.local(), device="cpu", precision="fp32")
    if loaded.passage_space != loaded.own_space():
        raise ModelError(
            f"{encoder} is a query encoder: its queries search the passages of encoder space {loaded.passage_space[:12]}, and it must not "
            "embed passages itself. Embed with the passage encoder that it was tuned from."
        )
    return {
        "passage_space": loaded.passage_space,
        "dimension": loaded.dimension,
        "similarity": "cosine" if loaded.normalise else "inner_product",
    }


def _known_facts(source: Artefact) -> dict[str, Any]:
    """What the embeddings of the same encoder say of it."""
    known = facts(source)
    return {"passage_space": known.passage_space, "dimension": known.dimension, "similarity": known.similarity}


def _embed(
    config: EmbedConfig,
    draft: Draft,
    inputs: dict[str, Artefact],
    known: dict[str, Any],
    source: Artefact | None,
    progress: Progress,
) -> Artefact:
    """Embed the parts that are missing, and publish."""
    corpus = inputs["corpus"]
    parts = corpus.parts()
    missing = [part for part in parts if not draft.has(part)]
    if len(missing) < len(parts):
        progress.say(f"Going on: {len(parts) - len(missing)} of {len(parts)} parts are embedded already.")
    reuse = plan_reuse(source, corpus) if source is not None else None
    stats = _embed_parts(config, draft, inputs, missing, source, reuse, progress)
    count = sum(draft.rows(part) for part in parts)
    if count == 0:
        raise InputError(f"{corpus} has no passages, so there is nothing to embed.")
    metrics = {
        **known,
        "count": count,
        "backends": sorted({entry["backend"] for entry in stats if "backend" in entry}),
        **{
            f"{name}s": sorted({entry[name] for entry in stats if name in entry}) or _of_source(source, f"{name}s")
            for name in ("precision", "device")
        },
        **_rate(stats, source),
    }
    if source is not None and reuse is not None:
        metrics |= {"reused": reuse.taken, "reused_from": {"key": source.key, "digest": source.digest}}
    return draft.publish(rows=count, metrics=metrics, **inherited(inputs.values()))


def _embed_parts(
    config: EmbedConfig,
    draft: Draft,
    inputs: dict[str, Artefact],
    parts: list[str],
    source: Artefact | None,
    reuse: Reuse | None,
    progress: Progress,
) -> list[dict[str, Any]]:
    """On workers; or here, where so much is taken over that starting them would cost more than the work."""
    encoded = sum(map(reuse.missing, parts)) if reuse is not None else inputs["corpus"].manifest.rows or 0
    backend = _chosen_backend(config, encoded)
    precision = _same_precision(config, source)
    if reuse is None or encoded > ENCODED_HERE:
        from retort.indexing.stages import embed_parts  # Ray: only where work is done, so that --help stays quick

        return embed_parts(config, backend, draft, inputs, parts, progress, reuse, precision)
    with threads_of(config.resources), progress.task("embedding passages", float(encoded)) as task:
        embedder, how = open_embedder(draft, inputs, precision, backend, config.token_budget, reuse)
        stats = []
        for part in parts:
            stats.append({**embedder(part), **how})
            task.update(reuse.missing(part))
    return stats


def _same_precision(config: EmbedConfig, source: Artefact | None) -> str:
    """What `auto` chose when the source was made: one artefact's vectors are of one precision."""
    earlier = source.metrics.get("precisions", []) if source is not None else []
    return str(earlier[0]) if config.precision == "auto" and len(earlier) == 1 else config.precision


def _of_source(source: Artefact | None, name: str) -> list[str]:
    return list(source.metrics.get(name, [])) if source is not None else []


def _rate(stats: list[dict[str, Any]], source: Artefact | None) -> dict[str, Any]:
    """Passages that a worker encodes in a second, for estimates; too few give no rate, the source's is handed on then."""
    encoded = sum(entry["encoded"] for entry in stats)
    seconds = sum(entry["encode_s"] for entry in stats)
    rate = round(encoded / seconds, 1) if seconds else None
    if source is not None and encoded < ENOUGH_FOR_A_RATE:
        rate = source.metrics.get("passages_per_worker_s", rate)
    return {"passages_per_worker_s": rate, "encoded": encoded, "encode_s": round(seconds, 3)}
