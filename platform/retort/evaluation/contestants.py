"""Which artefacts take part in a comparison, whether they belong together, and how they become systems."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from retort.corpus.lookup import Passages
from retort.errors import ConfigError, IncompatibleError
from retort.evaluation.systems import Bm25System, DenseSystem, System, TeacherSystem
from retort.indexing.search import ShardedIndex
from retort.mining.bm25 import Bm25
from retort.models.cross_encoder import CrossEncoder
from retort.models.dual_encoder import DualEncoder, passage_space
from retort.models.imports import encoder_artefact, teacher_artefact
from retort.progress import Progress
from retort.store import Artefact, Store

if TYPE_CHECKING:
    from retort.evaluation.evaluate import EvaluateConfig

DENSE = ("base", "student")


@dataclass(frozen=True, kw_only=True)
class Contestants:
    """The artefacts of a comparison; `encoders` and `indexes` by "base" and "student"."""

    corpus: Artefact
    queries: Artefact
    dev: Artefact | None
    encoders: dict[str, Artefact] = field(default_factory=dict)
    indexes: dict[str, Artefact] = field(default_factory=dict)
    teacher: Artefact | None = None

    def inputs(self) -> dict[str, Artefact]:
        """All of them by role, for the report's key and lineage."""
        found = {"corpus": self.corpus, "queries": self.queries}
        found |= {f"{name}_encoder": encoder for name, encoder in self.encoders.items()}
        found |= {f"{name}_index": index for name, index in self.indexes.items()}
        optional = {"dev": self.dev, "teacher": self.teacher}
        return found | {role: artefact for role, artefact in optional.items() if artefact is not None}

    def first_stages(self, config: EvaluateConfig, threads: int, progress: Progress) -> list[System]:
        """BM25, base and student, as far as they take part; `threads` are those of batches."""
        systems: list[System] = []
        if config.bm25:
            bm25 = Bm25.open(self.corpus, k1=config.bm25_k1, b=config.bm25_b, progress=progress)
            systems.append(Bm25System(bm25))
        for name, encoder in self.encoders.items():
            index, single = (ShardedIndex.open(self.indexes[name], n) for n in (threads, config.latency_threads))
            systems.append(DenseSystem(name, DualEncoder.load(encoder.local()).pack(for_queries=True), index, single))
        return systems

    def teacher_system(self, first: System, passages: Passages, top: int) -> TeacherSystem | None:
        """The teacher on top of a first stage; None where no teacher takes part."""
        if self.teacher is None:
            return None
        return TeacherSystem(first, CrossEncoder.load(self.teacher.local()), passages, top)


def open_contestants(config: EvaluateConfig, store: Store) -> Contestants:
    """Find the artefacts that `config` names and check that they belong together.

    Raises:
        ConfigError: an encoder without its index or the other way round, a teacher without a first stage, nothing to
        compare.
        NotFoundError: an artefact is not there.
        IncompatibleError: queries or an index of another corpus, or an encoder that does not fit its index.
    """
    _check_fields(config)
    corpus = store.get(config.corpus, "corpus")
    queries = store.get(config.queries, "queries")
    dev = store.get(config.dev, "queries") if config.dev else None
    for artefact in (queries, dev):
        if artefact is not None and (found := origin_digest(artefact, "corpus")) != corpus.digest:
            raise IncompatibleError(
                f"{artefact} belongs to corpus {found[:12]}, not to {corpus}. Name the queries that were ingested with this corpus."
            )
    encoders: dict[str, Artefact] = {}
    indexes: dict[str, Artefact] = {}
    for name in DENSE:
        encoder_ref, index_ref = getattr(config, f"{name}_encoder"), getattr(config, f"{name}_index")
        if encoder_ref and index_ref:
            encoders[name], indexes[name] = encoder_artefact(encoder_ref, store), store.get(index_ref, "index")
            _check_pair(name, encoders[name], indexes[name], corpus)
    teacher = teacher_artefact(config.teacher, store) if config.teacher else None
    return Contestants(corpus=corpus, queries=queries, dev=dev, encoders=encoders, indexes=indexes, teacher=teacher)


def _check_pair(name: str, encoder: Artefact, index: Artefact, corpus: Artefact) -> None:
    embeddings = index.input("embeddings")
    if (found := origin_digest(embeddings, "corpus")) != corpus.digest:
        raise IncompatibleError(
            f"The {name}'s {index} is over corpus {found[:12]}, not over {corpus}. Index this corpus with {encoder}."
        )
    if origin_digest(embeddings, "encoder") == encoder.digest:
        return
    ours, theirs = passage_space(encoder.local()), embeddings.metrics.get("passage_space", "unknown")
    if ours != theirs:
        raise IncompatibleError(
            f"The {name}'s {encoder} scores in passage space {ours[:12]}, {index} is in {theirs[:12]}. "
            f"Name the index that was built with this encoder, or embed and index the corpus with it."
        )


def origin_digest(artefact: Artefact, role: str) -> str:
    """The digest of the artefact's input in this role, "unknown" if it has none."""
    return next((record.digest for record in artefact.manifest.inputs if record.role == role), "unknown")


def _check_fields(config: EvaluateConfig) -> None:
    for name in DENSE:
        missing = [part for part in ("encoder", "index") if not getattr(config, f"{name}_{part}")]
        if len(missing) == 1:
            raise ConfigError(
                f"Field '{name}_{missing[0]}' is missing: name the {name}'s encoder and its index, or neither."
            )
    if not config.student_index and not config.base_index:
        if config.teacher:
            raise ConfigError(
                "The teacher re-ranks a first stage, and there is none: name the student's encoder and index."
            )
        if not config.bm25:
            raise ConfigError("There is nothing to compare: name encoders with their indexes, or leave bm25 on.")
