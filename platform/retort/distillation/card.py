"""The model card: what the encoder is, what it was made from, how good it is, and how to use it.

Written as README.md at the top of the encoder's folder, with the front matter that model hubs read. No times, so that
equal training gives equal files. Neighbour: `distil.py` collects the facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from retort.models.dual_encoder import DualEncoder
from retort.store import Artefact
from retort.store.manifest import InputRecord

__all__ = ["CardFacts", "model_card"]


@dataclass(frozen=True)
class CardFacts:
    """What the card tells."""

    name: str
    inputs: Mapping[str, Artefact]
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    licences: list[str]
    personal_data: str


def model_card(student: DualEncoder, facts: CardFacts) -> str:
    """The card in Markdown."""
    front = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "feature-extraction", "sentence-similarity", "retort"],
        "license": "other",
        "license_name": "; ".join(facts.licences) or "unknown",
    }
    sections = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# {facts.name}",
        _summary(student, facts),
        "## Use\n\n" + _usage(student),
        "## Quality\n\n" + _quality(facts.metrics),
        "## Training\n\n" + _table([(name, facts.config[name]) for name in sorted(facts.config)]),
        "## Data and teacher\n\n" + _lineage(facts.inputs),
        f"## Licences and personal data\n\nLicences of all inputs: {', '.join(facts.licences) or 'unknown'}. Personal data: {facts.personal_data}.",
        "## Limits\n\nThe student learns what its teacher says, its mistakes included. It was chosen on a small dev pool; measure it on "
        "your own queries before you rely on it. Texts longer than its limit are cut.",
    ]
    return "\n\n".join(sections) + "\n"


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


def _lineage(inputs: Mapping[str, Artefact]) -> str:
    lines = ["| role | artefact | key | digest |", "|---|---|---|---|"]
    for role, artefact in inputs.items():
        lines.append(f"| {role} | {artefact.kind}/{artefact.name} | `{artefact.key[:12]}` | `{artefact.digest[:12]}` |")
        further: list[InputRecord] = artefact.manifest.inputs
        lines += [f"| {role}: {r.role} | {r.kind}/{r.name} | `{r.key[:12]}` | `{r.digest[:12]}` |" for r in further]
    return "\n".join(lines)


def _table(rows: list[tuple[str, Any]]) -> str:
    return "\n".join(["| setting | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
