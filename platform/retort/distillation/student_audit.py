"""The teacher's audit, run again on the student: does a bias of the teacher's pass over?

    audit_student(audit, teacher, student, base, taught) -> figures     what `student_audit.json` holds
    audit_section(figures) -> Markdown                                  what the model card says of it

The pairs are those of the teacher's audit, less queries that the student learnt from. A dual encoder's score of a pair is the
inner product of its two vectors, which orders and slices like a logit; how it is calibrated is not asked, as no cosine is a
probability. Beside teacher and student stands the base: what the student lost against it in a slice, it lost in training.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retort.corpus.queries import QuerySet
from retort.metrics.significance import paired_bootstrap
from retort.models.dual_encoder import DualEncoder
from retort.store import Artefact
from retort.teaching.audit_findings import (
    NO_LABEL,
    agreement_figures,
    length_correlation,
    slice_labels,
    slices_of,
    worst_slice,
)
from retort.teaching.audit_gate import audit_entry
from retort.teaching.audit_pairs import Pairs, choose_queries, open_pairs
from retort.teaching.concordance import by_query, label_concordance
from retort.teaching.trained_on import same_question

__all__ = ["AUDIT_FILE", "audit_section", "audit_student"]

Floats = NDArray[np.float64]
AUDIT_FILE = "student_audit.json"
LEVEL = 0.99
"""Of the intervals that call a slice lost: there are a dozen slices, and one in twenty would be lost by chance."""
LEAST_QUERIES = 20


def audit_student(
    audit: Artefact,
    teacher: tuple[str, str],
    student: DualEncoder,
    base: DualEncoder,
    taught: Collection[str],
    seed: int,
) -> dict[str, Any] | None:
    """Compare base, student and teacher on the audit's pairs.

    Args:
        audit: the report of `retort audit`; its queries, candidates and corpus are read from the store.
        teacher: digest and name, as the audit knows it.
        student, base: encode queries and passages.
        taught: texts of the queries that the student learnt from; these are left out.
        seed: of the intervals.

    Returns:
        {"queries", "systems": {"base" | "student": figures}, "teacher": figures, "lost": [slices], "length": {...}}, JSON-ready;
        None where fewer than two queries are left.

    Raises:
        NotFoundError: the audit's inputs are no longer in the store. InputError: the audit is about other teachers.
    """
    entry = audit_entry(audit, *teacher)
    audited = _audited_pairs(audit)
    pairs = _without(audited, taught)
    if len(pairs.queries) < 2:
        return None
    scores = {"base": _scores(base, pairs), "student": _scores(student, pairs)}
    systems = {name: _figures(pairs, values, seed) for name, values in scores.items()}
    known = {
        "unseen": entry["unseen"],
        "length_correlation": entry["length_correlation"],
        "worst_slice": entry["worst_slice"],
        "slices": entry["slices"],
    }
    return {
        "audit": {"name": audit.name, "digest": audit.digest},
        "queries": len(pairs.queries),
        "left_out": len(audited.queries) - len(pairs.queries),
        "systems": systems,
        "teacher": {"name": entry["name"], **known},
        "lost": _lost(pairs, scores, _labels(audited, pairs), known["slices"], seed),
    }


def _audited_pairs(audit: Artefact) -> Pairs:
    """The candidates of the queries that the audit looked at."""
    settings, candidates = audit.manifest.config, audit.input("candidates")
    queries = QuerySet.open(audit.input("queries"))
    chosen = choose_queries(candidates, queries, int(settings["max_queries"]), int(settings["seed"]))
    return open_pairs(candidates, chosen, audit.input("corpus"))


def _without(pairs: Pairs, taught: Collection[str]) -> Pairs:
    """Only the pairs of queries that the student did not learn from."""
    known = {same_question(text) for text in taught}
    queries = zip(pairs.queries.ids, pairs.queries.texts, strict=True)
    return pairs.only({id_ for id_, text in queries if same_question(text) not in known})


def _labels(audited: Pairs, kept: Pairs) -> dict[str, list[str]]:
    """Slices of the pairs that are kept, cut and named as in the whole audit: what the teacher reaches is known by these names."""
    there = set(kept.queries.ids)
    rows = [row for row, (query, _) in enumerate(audited.ids) if query in there]
    return {by: [own[row] for row in rows] for by, own in slice_labels(audited).items()}


def _scores(encoder: DualEncoder, pairs: Pairs) -> Floats:
    """Inner products [pairs]; each text is encoded once."""
    queries = encoder.encode(pairs.queries.texts, "query")  # [queries, dim]
    ids = list(dict.fromkeys(passage for _, passage in pairs.ids))
    place = {id_: number for number, id_ in enumerate(ids)}
    passages = encoder.encode(pairs.passages.texts(ids), "passage")  # [passages, dim]
    rows = np.array([place[passage] for _, passage in pairs.ids], dtype=np.int64)
    scores: Floats = np.einsum("nd,nd->n", queries[pairs.query], passages[rows]).astype(np.float64)
    return scores


def _figures(pairs: Pairs, scores: Floats, seed: int) -> dict[str, Any]:
    agreement = agreement_figures(pairs, scores, seed)
    slices = slices_of(pairs, scores, [None] * len(pairs), seed)
    accuracy = agreement["pair_accuracy"]
    return {
        "unseen": agreement,
        "length_correlation": length_correlation(pairs, scores, seed),
        "slices": slices,
        "worst_slice": worst_slice(slices, accuracy["mean"] if accuracy else None),
    }


def _lost(
    pairs: Pairs,
    scores: Mapping[str, Floats],
    labels: Mapping[str, Sequence[str]],
    of_teacher: Sequence[Mapping[str, Any]],
    seed: int,
) -> list[dict[str, Any]]:
    """Slices in which the student orders surely worse than its base, with what the teacher reaches there."""
    accuracy = {name: label_concordance(values, pairs.relevant, pairs.query) for name, values in scores.items()}
    reached = {(row["by"], row["label"]): row["accuracy"] for row in of_teacher}
    found = []
    for by, own in labels.items():
        values = np.array(own, dtype=object)
        for label in dict.fromkeys(own):
            here = values == label
            student, base = (by_query(accuracy[name], pairs.query, here) for name in ("student", "base"))
            if len(student) < LEAST_QUERIES:
                continue
            change = paired_bootstrap(list(student.values()), list(base.values()), samples=2000, level=LEVEL, seed=seed)
            if change.high < 0:
                teacher = reached.get((by, label or NO_LABEL))
                found.append(
                    {
                        "by": by, "label": label or NO_LABEL, "queries": change.queries, "change": change.mean, "low": change.low,
                        "high": change.high, "teacher": teacher["mean"] if teacher else None,
                    }
                )  # fmt: skip
    return found


def audit_section(figures: Mapping[str, Any]) -> str:
    """The card's section: a row per system, then what was lost and whether length weighs more than before."""
    rows = [("teacher", figures["teacher"]), *((name, figures["systems"][name]) for name in ("base", "student"))]
    lines = [
        f"Base, student and teacher {figures['teacher']['name']} on the {figures['queries']} queries of the teacher's audit `{figures['audit']['name']}` "
        f"({figures['audit']['digest'][:12]}) that the student did not learn from. The teacher's row is its own audit's.",
        "",
        "| system | pair accuracy | nDCG@10 of the candidates | correlation of score and length | worst slice |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows:
        worst = row["worst_slice"]
        slice_ = f"{worst['by']} {worst['label']}: -{worst['loss']:.3f}" if worst else ""
        cells = (
            _mean(row["unseen"]["pair_accuracy"]),
            _mean(row["unseen"]["ndcg@10"]),
            _mean(row["length_correlation"]),
        )
        lines.append(f"| {name} | {' | '.join(cells)} | {slice_} |")
    return "\n".join([*lines, "", *_sentences(figures)])


def _sentences(figures: Mapping[str, Any]) -> list[str]:
    lost = [
        f"{row['by']} {row['label']} ({row['change']:+.3f}, {row['queries']} queries"
        + (f"; the teacher reaches {row['teacher']:.3f})" if row["teacher"] is not None else ")")
        for row in figures["lost"]
    ]
    said = [
        f"Pair accuracy fell against the base in: {'; '.join(lost)}."
        if lost
        else f"In no slice of {LEAST_QUERIES} queries or more did pair accuracy surely fall against the base."
    ]
    own, before = (figures["systems"][name]["length_correlation"] for name in ("student", "base"))
    teacher = figures["teacher"]["length_correlation"]
    if own and before and teacher:
        closer = abs(own["mean"] - teacher["mean"]) < abs(before["mean"] - teacher["mean"])
        stronger = abs(own["mean"]) > abs(before["mean"])
        if closer and stronger and not before["low"] <= own["mean"] <= before["high"]:
            said.append("**The teacher's preference for length passed over to the student.**")
    return said


def _mean(value: Mapping[str, Any] | None) -> str:
    return f"{value['mean']:.3f}" if value else ""
