"""The model card: what the encoder is, what it was made from, how good it is, and how to use it.

Written as README.md at the top of the encoder's folder. Neighbours: `distil.py` collects the facts, `models/card.py` is the frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retort.distillation.student_audit import audit_section
from retort.models.card import CardFacts, card, lineage_table, settings_table
from retort.models.dual_encoder import DualEncoder

__all__ = ["CardFacts", "model_card"]


def model_card(student: DualEncoder, facts: CardFacts, audited: Mapping[str, Any] | None = None) -> str:
    """The card in Markdown; `audited`: what `student_audit.audit_student` found."""
    sections = {
        "Use": _usage(student),
        "Quality": _quality(facts.metrics),
        "Audit": audit_section(audited)
        if audited
        else "The teacher was not audited, so nothing is known of its biases.",
        "False negatives": _false_negatives(facts.metrics.get("filter")),
        "Training": settings_table(facts.config) + _search(facts.metrics.get("search")),
        "Data and teacher": lineage_table(facts.inputs, deeper=True),
    }
    limits = (
        "The student learns what its teacher says, its mistakes included. It was chosen on a small dev pool; measure it on "
        "your own queries before you rely on it. Texts longer than its limit are cut."
    )
    return card(facts, sections, summary=_summary(student, facts), limits=limits)


def _summary(student: DualEncoder, facts: CardFacts) -> str:
    return (
        f"A dual encoder for retrieval, distilled from a cross-encoder at the level of sentences and of words. It starts from "
        f"{facts.inputs['base'].name}, makes vectors of {student.dimension} numbers ({student.pooling} pooling, "
        f"{'length 1' if student.normalise else 'not normalised'}), and reads {student.max_tokens['query']} tokens of a query and "
        f"{student.max_tokens['passage']} of a passage. Passage space: `{facts.metrics['passage_space']}`."
    )


def _usage(student: DualEncoder) -> str:
    prompts = any(student.prefixes.values())
    query = 'model.encode(["a question"], prompt_name="query")' if prompts else 'model.encode(["a question"])'
    passage = 'model.encode(["a passage"], prompt_name="document")' if prompts else 'model.encode(["a passage"])'
    return (
        '```python\nfrom sentence_transformers import SentenceTransformer\n\nmodel = SentenceTransformer("path/to/this/folder")\n'
        f"scores = {query} @ {passage}.T\n```"
    )


def _search(found: Mapping[str, Any] | None) -> str:
    """What the search tried; the settings above are those that it began with."""
    if found is None:
        return ""
    names = list(found["values"])
    lines = [
        f"\n\nOf these, a search of {len(found['trials'])} short trials of {found['steps']} steps at most replaced the following by those of trial "
        f"{found['trial']}, the best on the dev pool. Trial 0 has the settings above.\n",
        f"| trial | {' | '.join(names)} | steps | MRR@10 |",
        "|---" * (len(names) + 3) + "|",
    ]
    for row in found["trials"]:
        values = " | ".join(f"{row['values'][name]:.4g}" for name in names)
        steps, figure = (
            (row["history"][-1]["step"], f"{row['mrr10']:.4f}")
            if row["history"]
            else (0, "not finite" if row["diverged"] else "")
        )
        lines.append(f"| {row['trial']} | {values} | {steps} | {figure} |")
    return "\n".join(lines)


def _false_negatives(audit: Mapping[str, Any] | None) -> str:
    """What the filter dropped, and its threshold round by round."""
    if audit is None:
        return "No query has labels, and without them nothing is a negative: none was dropped as a false one."
    said = (
        f"Of {audit['negatives']} judged negatives of {audit['queries']} labelled queries, {audit['dropped']} ({audit['dropped_share']:.1%}) were dropped as "
        f"false ones (method {audit['method']}), from the lists of {audit['queries_with_drops']} queries; {audit['queries_left_without_negatives']} queries keep none."
    )
    curve = [
        f"| {row['round']} | {row['threshold']:.3f} |" for row in audit["thresholds"] if row["threshold"] is not None
    ]
    if not curve:
        return said
    return "\n".join(
        [f"{said} The threshold is a logit of the teacher's:", "", "| round | threshold |", "|---|---|", *curve]
    )


def _quality(metrics: Mapping[str, Any]) -> str:
    if metrics.get("dev_mrr10_student") is None:
        return "No labelled dev queries were given, so the last checkpoint was taken and nothing is known about its quality."
    better = "better" if metrics["better_than_base"] else "**not better**"
    rows = [("base", metrics["dev_mrr10_base"]), ("this encoder", metrics["dev_mrr10_student"])]
    lines = "\n".join(f"| {name} | {value:.4f} |" for name, value in rows)
    return (
        f"MRR@10 of {metrics['dev_queries']} dev queries on a pool of {metrics['dev_passages']} passages; this encoder is {better} than "
        f"its base there (step {metrics['best_step']} of {metrics['steps']}).\n\n| system | MRR@10 |\n|---|---|\n{lines}"
    )
