"""Scoring on Ray Data, for `score` and for `audit`: a pool of actors, each with a teacher, each judging whole parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.models.cross_encoder import CrossEncoder
from retort.models.judgements import Judgements
from retort.models.onnx_graph import Backend
from retort.progress import Progress
from retort.runtime.stages import map_parts
from retort.store import Artefact, Draft
from retort.teaching.audit_gate import TrustedTeacher, reliability_of
from retort.teaching.audit_pairs import AuditWorker, set_of
from retort.teaching.rerank_service import ServiceJudge, service_key
from retort.teaching.reuse import ReuseIndex, ReuseIndexes
from retort.teaching.scorer import Judge, PairScorer, PartScorer, QueryTexts, TeacherJudge

if TYPE_CHECKING:
    from retort.teaching.audit import AuditConfig
    from retort.teaching.score import ScoreConfig

__all__ = ["AuditActor", "ScoringActor", "audit_parts", "score_parts"]


class ScoringActor:
    """Opens teacher, texts and earlier scores once, then judges the parts it is given."""

    def __init__(
        self, draft: Draft, inputs: Mapping[str, Artefact], settings: Mapping[str, Any], earlier: Sequence[Artefact]
    ) -> None:
        self._judge = _judge_of(inputs, settings)
        queries, passages = QuerySet.open(inputs["queries"]), Passages.open(inputs["corpus"])
        self._scorer = PartScorer(
            draft=draft,
            candidates=inputs["candidates"],
            queries=QueryTexts(queries),
            passages=passages,
            judge=self._judge,
            reuse=ReuseIndexes([ReuseIndex.open(one) for one in earlier]),
            trust=_trusted(inputs, queries, passages) if settings["trust"] else None,
        )

    def __call__(self, part: str) -> dict[str, Any]:
        """Judge one part; return numbers about it."""
        if not isinstance(self._judge, ServiceJudge):
            return self._scorer(part)
        before = self._judge.meter.totals()
        stats = self._scorer(part)
        return stats | {name: value - before[name] for name, value in self._judge.meter.totals().items()}


def _judge_of(inputs: Mapping[str, Artefact], settings: Mapping[str, Any]) -> Judge:
    """Return who judges: a local teacher, or a service with or without a local one for the word maps."""
    local: Judge | None = None
    if "teacher" in inputs:
        teacher = CrossEncoder.load(
            inputs["teacher"].local(), precision=settings["precision"], max_tokens=settings["max_tokens"]
        )
        teacher.use_backend(settings["backend"])
        local = TeacherJudge(teacher, **settings["judge"])
    if settings["service"] is not None:
        return ServiceJudge(settings["service"], key=settings["key"], words=local, workers=settings["workers"])
    assert local is not None, "ScoreConfig names a teacher or a service"
    return local


def _trusted(inputs: Mapping[str, Artefact], queries: QuerySet, passages: Passages) -> TrustedTeacher | None:
    """Return how far the audit trusts this teacher; None where it was not audited."""
    audit = inputs.get("teacher_audit")
    if audit is None:
        return None
    teacher = inputs["teacher"]
    others = [Judgements.open(other) for role, other in inputs.items() if role.startswith("agree_with.")]
    languages = dict(zip(queries.ids, queries.langs, strict=True))
    return TrustedTeacher(reliability_of(audit, teacher.digest, teacher.name), languages, passages, others)


def score_parts(
    config: ScoreConfig,
    backend: Backend | Literal["auto"],
    draft: Draft,
    inputs: Mapping[str, Artefact],
    parts: list[str],
    earlier: Sequence[Artefact],
    layers: Sequence[int],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Judge `parts`, with word maps of these layers; return {pairs, quarantined, reused, seconds} of each."""
    if not parts:
        return []
    settings = {
        "precision": config.precision,
        "max_tokens": config.max_tokens,
        "trust": config.trust,
        "backend": backend,
        "service": config.service,
        "key": service_key(config.service) if config.service is not None else None,
        "workers": config.resources.workers,
        "judge": {
            "word_level": config.word_level,
            "top_k": config.top_k,
            "layers": layers,
            "heads": config.heads,
            "token_budget": config.token_budget,
        },
    }
    candidates = inputs["candidates"]
    rows = {part: float(candidates.part(part, columns=["query_id"]).num_rows) for part in parts}
    return map_parts(
        ScoringActor,
        {"draft": draft, "inputs": dict(inputs), "settings": settings, "earlier": list(earlier)},
        parts,
        config.resources,
        describe="judging pairs",
        progress=progress,
        weights=rows,
    )


class AuditActor:
    """Opens one teacher, its texts and its earlier scores once, then scores the parts of an audit; sentence level only."""

    def __init__(
        self,
        draft: Draft,
        number: int,
        teacher: Artefact,
        texts: Mapping[str, Mapping[str, Artefact]],
        settings: Mapping[str, Any],
        earlier: Sequence[Artefact],
    ) -> None:
        model = CrossEncoder.load(teacher.local(), precision=settings["precision"], max_tokens=settings["max_tokens"])
        budget = settings["token_budget"]
        judge = TeacherJudge(model, word_level=False, top_k=1, layers=(), heads=(), token_budget=budget)
        reuse = ReuseIndexes([ReuseIndex.open(one) for one in earlier])
        self._workers: dict[str, AuditWorker] = {}
        for name, own in texts.items():
            queries, passages = QueryTexts(QuerySet.open(own["queries"])), Passages.open(own["corpus"])
            scorer = PairScorer(queries=queries, passages=passages, judge=judge, reuse=reuse)
            self._workers[name] = AuditWorker(draft, number, scorer)

    def __call__(self, part: str) -> dict[str, Any]:
        """Score one part; return numbers about it."""
        return self._workers[set_of(part)](part)


def audit_parts(
    config: AuditConfig,
    draft: Draft,
    number: int,
    teacher: Artefact,
    texts: Mapping[str, Mapping[str, Artefact]],
    parts: Mapping[str, float],
    earlier: Sequence[Artefact],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Let the teacher score `parts` (part -> pairs); return numbers about each. `texts`: set -> its queries and corpus."""
    settings = {"precision": config.precision, "max_tokens": config.max_tokens, "token_budget": config.token_budget}
    return map_parts(
        AuditActor,
        {
            "draft": draft,
            "number": number,
            "teacher": teacher,
            "texts": {name: dict(own) for name, own in texts.items()},
            "settings": settings,
            "earlier": list(earlier),
        },
        list(parts),
        config.resources,
        describe=f"asking {teacher.name}",
        progress=progress,
        weights=parts,
    )
