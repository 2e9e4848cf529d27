"""The scoring step: a teacher judges every candidate pair, at the level of sentences and of words.

    score(config) -> judgements     one part per part of the candidates, same name

Everything that can be wrong with the input is looked for before Ray starts. After that the work is cut by part: a killed
run goes on with the parts that are missing and ends with the digest of an unbroken one. Written by `scorer.py`, run by
`stages.py`, read by `models/judgements.py`.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from retort.config import JobConfig, Ref, plain
from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.errors import ConfigError, IncompatibleError, InputError
from retort.models.backend import pick_device
from retort.models.cross_encoder import CrossEncoder
from retort.models.imports import teacher_artefact
from retort.models.onnx_graph import Backend, check_backend
from retort.progress import QUIET, Progress
from retort.store import Artefact, Draft, Policy, Store, enforce, inherited, open_store
from retort.teaching.audit_gate import require_passed
from retort.teaching.checks import check_candidates
from retort.teaching.quarantine import quarantine_name
from retort.teaching.rerank_service import RerankService, service_totals
from retort.teaching.word_layers import layers_for

__all__ = ["ScoreConfig", "score", "worker_backend"]

log = logging.getLogger(__name__)

WORTH_A_GRAPH = 10_000  # pairs


class ScoreConfig(JobConfig):
    """How candidates are judged."""

    candidates: Annotated[str, Ref("candidates")] = Field(description="Candidates artefact: the pairs to judge.")
    corpus: Annotated[str, Ref("corpus")] = Field(description="Corpus artefact with the passages' texts.")
    queries: Annotated[str, Ref("queries")] = Field(description="Queries artefact with the queries' texts.")
    teacher: Annotated[str | None, Ref("teacher")] = Field(
        None, description="Teacher artefact, a folder, or a Hugging Face id of a cross-encoder with one or two logits."
    )
    service: RerankService | None = Field(
        None,
        description="A reranking service over HTTP that gives the sentence level; word maps then come from `teacher`, or are off.",
    )
    word_level: bool = Field(True, description="Whether to keep the word-level map of each pair.")
    top_k: int = Field(
        8, ge=1, le=255, description="Passage words kept per query word in a word map; the rest is one number."
    )
    layers: tuple[int, ...] = Field(
        (),
        description="The teacher's layers, numbered from 0, that a word map is the mean of; empty: the one that tells relevant passages best from others.",
    )
    heads: tuple[int, ...] = Field(
        (), description="Attention heads, numbered from 0, that a word map is the mean of; empty: all of them."
    )
    max_tokens: int | None = Field(
        None,
        ge=16,
        description="Longest pair in tokens; longer passages are read in windows. Default: what the teacher was trained with.",
    )
    precision: str = Field(
        "auto", pattern="^(auto|fp32|bf16)$", description="Arithmetic of the forward pass; auto: measured."
    )
    backend: Literal["auto", "torch", "onnx", "onnx-int8"] = Field(
        "auto",
        description="What runs the forward pass without the word level; auto: for many pairs the faster of torch and ONNX Runtime, whose scores "
        "are equal. onnx-int8 is faster still and rougher.",
    )
    token_budget: int | None = plain(
        None, ge=512, description="Tokens of one forward pass, padding included. Default: what suits the device."
    )
    quarantine_threshold: float = plain(
        0.01, ge=0, le=1, description="Share of pairs that may be unreadable before the job fails instead of warning."
    )
    reuse: Annotated[tuple[str, ...], Ref("judgements")] = Field(
        (),
        description="Earlier judgements of the same teacher and settings, one or several: pairs of unchanged texts are taken from there.",
    )
    teacher_audit: Annotated[str | None, Ref("report")] = Field(
        None,
        description="Audit of this teacher: one that failed is refused, and its judgements are weighted by what was measured.",
    )
    trust: bool = Field(
        True, description="Whether the audit's figures become each judgement's trust; else all are trusted fully."
    )
    agree_with: Annotated[tuple[str, ...], Ref("judgements")] = Field(
        (), description="What other teachers said of these candidates: what they contradict is trusted less."
    )
    policy: Policy = plain(
        default_factory=Policy, description="Licences and personal data that teacher and data may bring along."
    )

    @field_validator("reuse", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source_a_level(self) -> ScoreConfig:
        if self.teacher is None and self.service is None:
            raise ValueError("neither teacher nor service is named; name who judges the sentence level")
        if self.service is not None and (self.teacher is None) == self.word_level:
            raise ValueError(
                "word_level is on without a local cross-encoder to make the maps; name teacher, or set word_level to false"
                if self.word_level
                else "teacher is named beside service although word_level is off; leave one of the two out"
            )
        if self.service is not None and (self.teacher_audit is not None or self.reuse):
            raise ValueError("teacher_audit and reuse are about a local teacher's scores; leave them out with service")
        if self.backend in ("onnx", "onnx-int8") and (self.word_level or self.service is not None):
            raise ValueError(
                f"backend {self.backend} gives scores only; set word_level to false and name a teacher, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _others_need_an_audit(self) -> ScoreConfig:
        if self.agree_with and (self.teacher_audit is None or not self.trust):
            raise ValueError("agree_with weights the trust that an audit gives; name teacher_audit and leave trust on")
        return self

    def identity(self) -> dict[str, Any]:
        """As every job's; backends with equal scores do not make other judgements."""
        values = super().identity()
        return values | {"backend": "onnx-int8" if self.backend == "onnx-int8" else "torch"}


def score(config: ScoreConfig, progress: Progress = QUIET) -> Artefact:
    """Judge all candidates; return the judgements artefact.

    Raises:
        NotFoundError: an input is not in the store.
        ModelError: the teacher is no cross-encoder with one or two logits, or its tokenizer has no offsets.
        InputError: candidates name ids that the queries or the corpus lack, texts are empty, too many rows are unreadable,
            or the teacher failed its audit.
        IncompatibleError: `reuse` was judged by another teacher or with other settings, `agree_with` by this one.
        PolicyError: an input brings a licence or personal data that the policy forbids.
    """
    store = open_store(config.store)
    candidates = store.get(config.candidates, "candidates")
    corpus = store.get(config.corpus, "corpus")
    queries = store.get(config.queries, "queries")
    inputs = {"candidates": candidates, "corpus": corpus, "queries": queries}
    if config.teacher is not None:
        inputs["teacher"] = teacher_artefact(config.teacher, store)
    inputs |= {f"agree_with.{i}": store.get(ref, "judgements") for i, ref in enumerate(config.agree_with)}
    if config.teacher_audit is not None:
        inputs["teacher_audit"] = store.get(config.teacher_audit, "report")
        require_passed(inputs["teacher_audit"], inputs["teacher"].digest, inputs["teacher"].name)
    enforce(config.policy, inputs)
    draft = store.draft(
        "judgements", config.name or candidates.name, step="score", inputs=inputs, config=config.identity()
    )
    done = draft.published
    if done is not None:
        progress.say(f"Judgements {done.name} are already made.")
        return done
    earlier = _earlier_judgements(config, store, inputs.get("teacher"))
    _check_others(inputs)
    teacher = None
    if "teacher" in inputs:
        # Loaded here once, so that a model that cannot teach is refused before any worker starts.
        teacher = CrossEncoder.load(inputs["teacher"].local(), precision=config.precision, max_tokens=config.max_tokens)
        _check_word_level(config, teacher)
        if config.backend != "auto":
            check_backend(config.backend, pick_device())
    texts, passages = QuerySet.open(queries), Passages.open(corpus)
    check_candidates(candidates, texts, passages)
    with draft:
        if draft.published is not None:
            return draft.published
        layers: tuple[int, ...] = ()
        if teacher is not None and config.word_level:
            layers = config.layers or layers_for(teacher, draft, earlier, candidates, texts, passages, config.heads)  # fmt: skip
        del teacher  # the workers load their own
        return _judge(config, draft, inputs, earlier, layers, progress)


def _judge(
    config: ScoreConfig,
    draft: Draft,
    inputs: dict[str, Artefact],
    earlier: list[Artefact],
    layers: tuple[int, ...],
    progress: Progress,
) -> Artefact:
    """Judge the parts that are missing, and publish."""
    from retort.teaching.stages import score_parts  # Ray: only where work is done, so that --help stays quick

    candidates = inputs["candidates"]
    missing = [part for part in candidates.parts() if not draft.has(part)]
    if len(missing) < len(candidates.parts()):
        progress.say(
            f"Going on: {len(candidates.parts()) - len(missing)} of {len(candidates.parts())} parts are judged already."
        )
    stats = score_parts(config, worker_backend(config, candidates), draft, inputs, missing, earlier, layers, progress)
    if config.service is not None:
        asked = service_totals(stats)
        progress.say(
            f"The reranking service was asked {asked['service_requests']:,} times in this run, {asked['service_retries']:,} of them again; cost {asked['service_cost']:g}."
        )

    quarantined = sum(
        draft.read_table(name, columns=["reason"]).num_rows
        for name in map(quarantine_name, candidates.parts())
        if draft.has(name)
    )
    rows = sum(draft.read_table(part, columns=["score"]).num_rows for part in candidates.parts())
    if quarantined > config.quarantine_threshold * (rows + quarantined):
        raise InputError(
            f"{quarantined} of {rows + quarantined} pairs could not be judged, more than quarantine_threshold={config.quarantine_threshold:g} "
            f"allows. The reasons are in {draft.area.uri}/quarantine-*.parquet; mend the texts, or raise the threshold to leave these pairs out."
        )
    if quarantined:
        message = f"{quarantined} of {rows + quarantined} pairs could not be judged and were left out; see quarantine-*.parquet."
        log.warning("%s", message)
        progress.say(f"Warning: {message}")
    seconds = sum(entry["seconds"] for entry in stats)
    judged = sum(entry["pairs"] - entry["reused"] for entry in stats)
    metrics: dict[str, Any] = {
        "mean_trust": _mean_trust(draft, candidates.parts()),
        "pairs": rows,
        "word_layers": list(layers),
        "quarantined": quarantined,
        "reused": sum(entry["reused"] for entry in stats),
        "pairs_per_worker_s": round(judged / seconds, 1) if seconds else None,
        **service_totals(stats),
    }
    return draft.publish(rows=rows, metrics=metrics, **inherited(inputs.values()))


def worker_backend(config: ScoreConfig, candidates: Artefact) -> Backend | Literal["auto"]:
    """What the workers are told: exporting a graph and timing it takes longer than a few thousand pairs in torch."""
    few = (candidates.manifest.rows or 0) < WORTH_A_GRAPH
    return "torch" if config.backend == "auto" and (config.word_level or few) else config.backend


def _mean_trust(draft: Draft, parts: list[str]) -> float:
    """Return the mean trust of all judgements."""
    total, count = 0.0, 0
    for part in parts:
        trust = draft.read_table(part, columns=["trust"]).column(0).to_numpy()
        total, count = total + float(trust.sum()), count + len(trust)
    return round(total / max(1, count), 4)


def _check_others(inputs: dict[str, Artefact]) -> None:
    """Refuse judgements of the same teacher (it agrees with itself), and those of another corpus or other queries."""
    for role, other in inputs.items():
        if not role.startswith("agree_with."):
            continue
        theirs = {record.role: record.digest for record in other.manifest.inputs}
        own = inputs["teacher"].digest if "teacher" in inputs else None
        if own is not None and theirs.get("teacher") == own:
            raise IncompatibleError(
                f"{role} names {other}, which is by this run's own teacher {own[:12]}: it would only agree with itself. "
                "Name judgements of other teachers."
            )
        for kind in ("corpus", "queries"):
            if theirs.get(kind) != inputs[kind].digest:
                raise IncompatibleError(
                    f"{role} names {other}, which is about other {kind} ({theirs.get(kind, 'unknown')[:12]}) than this run's "
                    f"({inputs[kind].digest[:12]}). Let the other teacher judge the same candidates."
                )


def _check_word_level(config: ScoreConfig, teacher: CrossEncoder) -> None:
    """Refuse layers and heads that the teacher does not have."""
    if not config.word_level:
        return
    for name, asked, there in (
        ("layers", config.layers, teacher.layers),
        ("heads", config.heads, int(teacher.model.config.num_attention_heads)),
    ):
        wrong = [number for number in asked if not 0 <= number < there]
        if wrong:
            raise ConfigError(
                f"{name} names {wrong}, and the teacher has {there} {name}; expected numbers from 0 to {there - 1}."
            )


def _earlier_judgements(config: ScoreConfig, store: Store, teacher: Artefact | None) -> list[Artefact]:
    """Return the artefacts to reuse, after checking that their scores mean the same."""
    if teacher is None:
        return []
    found = [store.get(reference, "judgements") for reference in config.reuse]
    for earlier in found:
        _check_same_judge(config, earlier, teacher)
    return found


def _check_same_judge(config: ScoreConfig, earlier: Artefact, teacher: Artefact) -> None:
    """Refuse judgements of another teacher, or with settings that change what a teacher says."""
    theirs = {record.role: record.digest for record in earlier.manifest.inputs}.get("teacher")
    if theirs != teacher.digest:
        raise IncompatibleError(
            f"{earlier} was judged by teacher {(theirs or 'unknown')[:12]}, this run's teacher is {teacher.digest[:12]}. "
            "Leave `reuse` out, or name judgements of the same teacher."
        )
    different = [
        name
        for name, value in config.identity().items()
        # Neither changes what the teacher says; trust is given anew.
        if name not in ("seed", "trust") and earlier.manifest.config.get(name) != value
    ]
    if different:
        raise IncompatibleError(
            f"{earlier} was judged with other settings ({', '.join(different)}). Leave `reuse` out, or use the same settings."
        )
