"""The audit step: one or several teachers are looked at before one of them may teach.

    audit(config) -> report     audit.json and audit.html (one page that opens offline)

Each teacher scores the candidates of labelled queries that it was not trained on, and a sample of those that it was. How it
agrees with the labels, how it is calibrated, what it prefers by length, language, section or place of the answer, where it
contradicts the labels, and a verdict against thresholds: audit_findings.py, calibration.py, disagreements.py, audit_verdict.py.
`score` and `distil` refuse a teacher that failed (audit_gate.py), and `score` weights its judgements by what was measured here
(trust.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from retort.config import JobConfig, Ref, plain
from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.errors import ConfigError, IncompatibleError, InputError
from retort.models.cross_encoder import CrossEncoder
from retort.models.imports import teacher_artefact
from retort.progress import QUIET, Progress
from retort.store import Artefact, Draft, Store, inherited, open_store
from retort.teaching.audit_gate import AUDIT
from retort.teaching.audit_page import render_page
from retort.teaching.audit_pairs import Pairs, choose_queries, missing_scores, open_pairs, read_scores, write_pairs
from retort.teaching.audit_report import TeacherView, assemble
from retort.teaching.audit_verdict import Thresholds
from retort.teaching.checks import check_candidates
from retort.teaching.trained_on import Trained, trained_on

__all__ = ["AuditConfig", "audit"]

log = logging.getLogger(__name__)

GIVEN = "given"  # parts of the queries that the config names; those of teacher N's own training queries are seenN


class AuditConfig(JobConfig):
    """Which teachers are audited, on what, and what they must reach."""

    teachers: Annotated[tuple[str, ...], Ref("teacher")] = Field(
        description="Teachers to compare: artefacts, folders, or Hugging Face ids of cross-encoders."
    )
    corpus: Annotated[str, Ref("corpus")] = Field(description="Corpus artefact with the passages' texts.")
    queries: Annotated[str, Ref("queries")] = Field(
        description="Queries with qrels that the teachers were not trained on: dev, or another held-out split."
    )
    candidates: Annotated[str, Ref("candidates")] = Field(description="Candidates of these queries.")
    max_queries: int = Field(
        500, ge=2, description="Queries looked at, at most: of these, and of each teacher's training queries."
    )
    seen: bool = Field(
        True, description="Whether each teacher is asked about its training queries too, which shows overfitting."
    )
    thresholds: Thresholds = Field(
        default_factory=lambda: Thresholds.model_validate({}), description="What a teacher must reach."
    )
    shrinkage: float = Field(
        20.0,
        gt=0,
        description="Trust: worth, in queries, of the belief that a slice is as reliable as the whole; small slices lean on it.",
    )
    enforce: bool = plain(
        False, description="Whether the job fails, after publishing its page, when no teacher passed."
    )
    reuse: bool = plain(True, description="Whether scores of these teachers that are in the store already are used.")
    max_tokens: int | None = Field(
        None, ge=16, description="Longest pair in tokens. Default: what each teacher was trained with."
    )
    precision: str = Field(
        "auto", pattern="^(auto|fp32|bf16)$", description="Arithmetic of the forward pass; auto: measured."
    )
    token_budget: int | None = plain(
        None, ge=512, description="Tokens of one forward pass, padding included. Default: what suits the device."
    )

    @field_validator("teachers")
    @classmethod
    def _one_at_least(cls, teachers: tuple[str, ...]) -> tuple[str, ...]:
        if not teachers:
            raise ValueError("no teacher is named; expected one or several")
        return teachers


@dataclass(frozen=True)
class _Sets:
    """What is scored: the given queries once for all teachers, and each teacher's own training queries."""

    given: Pairs
    own: list[Pairs | None]  # per teacher
    trained: list[Trained | None]  # per teacher
    parts: list[dict[str, dict[str, int]]]  # per teacher: set -> part -> pairs


def audit(config: AuditConfig, progress: Progress = QUIET) -> Artefact:
    """Audit the teachers; return the report artefact. Its metrics hold `passed`, `choice` and figures by teacher.

    Raises:
        NotFoundError: an input is not in the store.
        ModelError: a teacher is no cross-encoder with one or two logits, or its tokenizer has no offsets.
        InputError: candidates name ids that the queries or the corpus lack, texts are empty, fewer than two labelled queries
            have candidates; with `enforce`, no teacher passed (the report is published then).
    """
    store = open_store(config.store)
    teachers = _teachers(config, store)
    inputs = {f"teachers.{number}": teacher for number, teacher in enumerate(teachers)}
    inputs |= {
        "corpus": store.get(config.corpus, "corpus"),
        "queries": store.get(config.queries, "queries"),
        "candidates": store.get(config.candidates, "candidates"),
    }
    name = config.name or f"{inputs['queries'].name}-audit"[:100]
    draft = store.draft("report", name, step="audit", inputs=inputs, config=config.identity())
    if (done := draft.published) is not None:
        progress.say(f"Audit {done.name} is already made.")
        return _enforced(config, done)
    for teacher in teachers:  # a model that cannot teach is refused before any worker starts
        CrossEncoder.load(teacher.local())
    queries = QuerySet.open(inputs["queries"])
    check_candidates(inputs["candidates"], queries, Passages.open(inputs["corpus"]))
    chosen = choose_queries(inputs["candidates"], queries, config.max_queries, config.seed)
    if len(chosen) < 2:
        raise InputError(
            f"{len(chosen)} queries of {inputs['queries']} have a passage labelled relevant and candidates in {inputs['candidates']}; "
            "an audit needs two at least. Give labelled queries, and candidates that were mined for them."
        )
    with draft:
        made = draft.published
        if made is None:
            sets = _open_sets(config, draft, teachers, inputs, chosen)
            scores, reused = _score_all(config, store, draft, teachers, inputs, sets, progress)
            made = _publish(config, draft, teachers, inputs, sets, scores, reused, progress)
    return _enforced(config, made)


def _teachers(config: AuditConfig, store: Store) -> list[Artefact]:
    """Open the teachers; the same one twice is a mistake."""
    found = [teacher_artefact(ref, store) for ref in config.teachers]
    for number, teacher in enumerate(found):
        twin = next((other for other in range(number) if found[other].digest == teacher.digest), None)
        if twin is not None:
            raise ConfigError(
                f"teachers names the same teacher twice: {config.teachers[twin]!r} and {config.teachers[number]!r} are {teacher.digest[:12]}. Name each once."
            )
    return found


def _open_sets(
    config: AuditConfig, draft: Draft, teachers: Sequence[Artefact], inputs: Mapping[str, Artefact], chosen: QuerySet
) -> _Sets:
    """Read the candidates of all queries and cut them into parts."""
    given = open_pairs(inputs["candidates"], chosen, inputs["corpus"])
    given_parts = write_pairs(draft, GIVEN, given)
    own: list[Pairs | None] = []
    trained = [trained_on(teacher) for teacher in teachers]
    parts: list[dict[str, dict[str, int]]] = []
    for number, known in enumerate(trained):
        pairs = _own_pairs(config, known) if known is not None and config.seen else None
        own.append(pairs)
        parts.append({GIVEN: given_parts} | ({"seen": write_pairs(draft, _own_name(number), pairs)} if pairs else {}))
    return _Sets(given, own, trained, parts)


def _own_name(number: int) -> str:
    """Return the name of the set of a teacher's own training queries."""
    return f"seen{number}"


def _own_pairs(config: AuditConfig, known: Trained) -> Pairs | None:
    """Return the candidates of a sample of a teacher's training queries; None where there are none."""
    queries = QuerySet.open(known.queries).subset(known.ids)
    sample = choose_queries(known.candidates, queries, config.max_queries, config.seed)
    return open_pairs(known.candidates, sample, known.corpus) if len(sample) else None


def _score_all(
    config: AuditConfig,
    store: Store,
    draft: Draft,
    teachers: Sequence[Artefact],
    inputs: Mapping[str, Artefact],
    sets: _Sets,
    progress: Progress,
) -> tuple[list[dict[str, NDArray[np.float64]]], int]:
    """Let every teacher score its parts; return its scores by set, in the order of the set's pairs, and how many were reused."""
    from retort.runtime.connecting import connected  # Ray: only where work is done
    from retort.teaching.stages import audit_parts

    work = []
    for number, teacher in enumerate(teachers):
        missing = missing_scores(
            draft, number, {part: size for sizes in sets.parts[number].values() for part, size in sizes.items()}
        )
        texts = {GIVEN: {"queries": inputs["queries"], "corpus": inputs["corpus"]}}
        known = sets.trained[number]
        if known is not None:
            texts[_own_name(number)] = {"queries": known.queries, "corpus": known.corpus}
        if missing:
            work.append((number, teacher, texts, missing))
    reused = 0
    if work:
        with connected():
            for number, teacher, texts, missing in work:
                earlier = _earlier(config, store, teacher) if config.reuse else []
                stats = audit_parts(config, draft, number, teacher, texts, missing, earlier, progress)
                reused += sum(entry["reused"] for entry in stats)
    scores = []
    for number in range(len(teachers)):
        pairs = {GIVEN: sets.given} | ({"seen": own} if (own := sets.own[number]) is not None else {})
        scores.append(
            {name: read_scores(draft, number, list(sets.parts[number][name]), mine) for name, mine in pairs.items()}
        )
    return scores, reused


def _earlier(config: AuditConfig, store: Store, teacher: Artefact) -> list[Artefact]:
    """Return the judgements in the store whose scores this teacher gave with these settings, newest first."""
    # Beside a service the teacher gave word maps only; "torch" stands for all backends of equal scores (ScoreConfig.identity).
    settings = {
        "max_tokens": config.max_tokens,
        "precision": config.precision,
        "service": None,
        "backend": "torch",
    }
    return [
        made
        for made in reversed(store.list("judgements"))
        if any(record.role == "teacher" and record.digest == teacher.digest for record in made.manifest.inputs)
        and settings.items() <= made.manifest.config.items()
    ]


def _publish(
    config: AuditConfig,
    draft: Draft,
    teachers: Sequence[Artefact],
    inputs: Mapping[str, Artefact],
    sets: _Sets,
    scores: Sequence[Mapping[str, NDArray[np.float64]]],
    reused: int,
    progress: Progress,
) -> Artefact:
    """Measure, decide, write page and figures."""
    views = []
    for number, teacher in enumerate(teachers):
        if not np.isfinite(scores[number][GIVEN]).any():
            raise IncompatibleError(
                f"Teacher {teacher.name} could not score a single pair of {inputs['candidates']}; look at its answers, or leave it out."
            )
        own = sets.own[number]
        views.append(
            TeacherView(
                teacher, sets.trained[number], scores[number][GIVEN], (own, scores[number]["seen"]) if own is not None else None
            )
        )  # fmt: skip
    with progress.task("measuring teachers", len(views)) as task:
        report = assemble(
            views,
            sets.given,
            inputs,
            thresholds=config.thresholds,
            shrinkage=config.shrinkage,
            seed=config.seed,
            task=task,
        )
    draft.write_json(AUDIT, report)
    draft.write_bytes("audit.html", render_page(report).encode())
    for entry in report["teachers"]:
        mark = "passed" if entry["verdict"]["passed"] else "failed"
        progress.say(f"{entry['name']}: {mark}. {entry['verdict']['why']}")
    metrics: dict[str, Any] = {
        "passed": any(entry["verdict"]["passed"] for entry in report["teachers"]),
        "choice": report["choice"],
        "reused": reused,
        "teachers": {
            entry["digest"]: {
                "name": entry["name"],
                "passed": entry["verdict"]["passed"],
                "pair_accuracy": entry["unseen"]["pair_accuracy"]
                and round(entry["unseen"]["pair_accuracy"]["mean"], 4),
                "ndcg@10": entry["unseen"]["ndcg@10"] and round(entry["unseen"]["ndcg@10"]["mean"], 4),
            }
            for entry in report["teachers"]
        },
    }
    return draft.publish(rows=len(sets.given), metrics=metrics, **inherited(inputs.values()))


def _enforced(config: AuditConfig, made: Artefact) -> Artefact:
    """Return the report, or fail where nobody may teach and the config says that this is an error."""
    if config.enforce and not made.metrics["passed"]:
        report = made.json(AUDIT)
        reasons = " ".join(f"{entry['name']}: {entry['verdict']['why']}" for entry in report["teachers"])
        raise InputError(
            f"No teacher passed the audit. {reasons} The page is {made.area.full('audit.html')}; train longer or on more labels, or choose "
            "another teacher or other thresholds."
        )
    return made
