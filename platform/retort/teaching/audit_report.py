"""The value of audit.json, put together from pairs and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retort.progress import Task
from retort.store import Artefact
from retort.teaching.audit_findings import (
    against_search,
    agreement_figures,
    calibration_of,
    gap_of,
    length_correlation,
    slices_of,
    teachers_agree,
    worst_slice,
)
from retort.teaching.audit_pairs import Pairs
from retort.teaching.audit_verdict import Thresholds, choose, decide
from retort.teaching.concordance import label_concordance
from retort.teaching.disagreements import disagreements
from retort.teaching.pair_facts import answer_third, answers_of, term_weights
from retort.teaching.trained_on import Trained, same_question
from retort.teaching.trust import measure_reliability

__all__ = ["TeacherView", "assemble"]

SCHEMA_VERSION = 1
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TeacherView:
    """One teacher and its scores."""

    teacher: Artefact
    trained: Trained | None  # None: nobody knows what it was trained on
    given: Floats  # [pairs] of the given queries
    seen: tuple[Pairs, Floats] | None  # its own training queries


def assemble(
    views: Sequence[TeacherView],
    given: Pairs,
    inputs: Mapping[str, Artefact],
    *,
    thresholds: Thresholds,
    shrinkage: float,
    seed: int,
    task: Task,
) -> dict[str, Any]:
    """Return the report: JSON-ready, no NaN. Needs `corpus`, `queries` and `candidates` among the inputs."""
    thirds = _thirds(given)
    names = _names([view.teacher for view in views])
    teachers = []
    for number, view in enumerate(views):
        others = [other.given for place, other in enumerate(views) if place != number]
        entry = _entry(view, given, thirds, others, shrinkage, seed)
        entry["name"] = names[number]
        entry["verdict"] = decide(entry, thresholds)
        teachers.append(entry)
        task.update(1)
    alike = [
        {"a": names[a], "b": names[b], "share": teachers_agree(given, views[a].given, views[b].given)}
        for a in range(len(views))
        for b in range(a + 1, len(views))
    ]
    corpus = inputs["corpus"]
    return {
        "schema_version": SCHEMA_VERSION,
        "title": f"Audit of {names[0]}" if len(names) == 1 else f"Audit of {len(names)} teachers",
        "created": datetime.now(UTC).strftime("%Y-%m-%d"),
        "teachers": teachers,
        "choice": choose(teachers),
        "alike": alike,
        "thresholds": thresholds.model_dump(mode="json"),
        "inputs": {
            role: {"name": inputs[role].name, "digest": inputs[role].digest} for role in ("corpus", "queries", "candidates")
        },
        "queries": len(given.queries),
        "pairs": len(given),
        "relevant": int(given.relevant.sum()),
        "sources": list(given.sources),
        "passages": corpus.manifest.rows,
    }  # fmt: skip


def _entry(
    view: TeacherView, given: Pairs, thirds: Sequence[str | None], others: Sequence[Floats], shrinkage: float, seed: int
) -> dict[str, Any]:
    """Return what is found about one teacher."""
    teacher, trained = view.teacher, view.trained
    known = trained.texts if trained is not None else frozenset()
    stopped_by = trained.held_out_texts if trained is not None else frozenset()
    asked = {query: same_question(text) for query, text in zip(given.queries.ids, given.queries.texts, strict=True)}
    fresh = {query for query, text in asked.items() if text not in known}
    rows = np.array([query in fresh for query, _ in given.ids], dtype=bool)
    unseen, scores = given.only(fresh), view.given[rows]
    own = [other[rows] for other in others]
    slices = slices_of(unseen, scores, [third for third, kept in zip(thirds, rows.tolist(), strict=True) if kept], seed)
    figures = agreement_figures(unseen, scores, seed)
    whole = figures["pair_accuracy"]["mean"] if figures["pair_accuracy"] else None
    manifest = teacher.manifest
    concordance = label_concordance(scores, unseen.relevant, unseen.query)
    return {
        "name": teacher.name,
        "key": teacher.key,
        "digest": teacher.digest,
        "licences": manifest.licences,
        "personal_data": manifest.personal_data,
        "made_by": manifest.step,
        "parameters": manifest.metrics.get("parameters"),
        "trained_on": len(trained.ids) if trained is not None else None,
        "unseen": figures,
        "seen": agreement_figures(*view.seen, seed) if view.seen is not None else None,
        "leaked": len(asked) - len(fresh),
        "stopped_by": sum(asked[query] in stopped_by for query in fresh),
        "gap": gap_of(view.seen, (unseen, scores), seed),
        "gap_missing": _why_no_gap(view),
        "against_search": against_search(unseen, scores, seed),
        "calibration": calibration_of(unseen, scores),
        "length_correlation": length_correlation(unseen, scores, seed),
        "slices": slices,
        "worst_slice": worst_slice(slices, whole),
        "reliability": measure_reliability(unseen.facts, concordance, unseen.query, shrinkage).model_dump(mode="json"),
        "disagreements": disagreements(unseen, scores, own),
    }


def _why_no_gap(view: TeacherView) -> str:
    if view.trained is None:
        return "its training queries are not known: it was imported, or they are no longer in this store"
    return "it was not asked about its training queries" if view.seen is None else "too few queries"


def _thirds(pairs: Pairs) -> list[str | None]:
    """Return where the answer lies in each relevant passage; None for the others and where nothing tells."""
    weights = term_weights(pairs.passages.texts(sorted({passage for _, passage in pairs.ids})))
    rows = np.flatnonzero(pairs.relevant).tolist()
    found: list[str | None] = [None] * len(pairs)
    for row, text in zip(rows, pairs.passages.texts([pairs.ids[row][1] for row in rows]), strict=True):
        query = pairs.ids[row][0]
        answers = answers_of(pairs.queries.field(query))
        found[row] = answer_third(pairs.queries.texts[int(pairs.query[row])], text, weights, answers)
    return found


def _names(teachers: Sequence[Artefact]) -> list[str]:
    """Return names that tell the teachers apart."""
    names = [teacher.name for teacher in teachers]
    return [
        name if names.count(name) == 1 else f"{name} {teacher.digest[:8]}" for name, teacher in zip(names, teachers, strict=True)
    ]  # fmt: skip
