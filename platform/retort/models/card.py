"""The frame of every model card: front matter that model hubs read, settings, lineage, licences.

What is said of an encoder's making and quality is the business of the room that made it: `distillation/card.py`,
`tuning/card.py`. No times, so that equal training gives equal files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from retort.store import Artefact

__all__ = ["CardFacts", "card", "lineage_table", "settings_table"]


@dataclass(frozen=True)
class CardFacts:
    """What a card tells."""

    name: str
    inputs: Mapping[str, Artefact]
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    licences: list[str]
    personal_data: str


def card(facts: CardFacts, sections: Mapping[str, str], *, summary: str, limits: str, tags: Sequence[str] = ()) -> str:
    """The card in Markdown: front matter, summary, the sections by title, licences, limits."""
    front = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "feature-extraction", "sentence-similarity", *tags, "retort"],
        "license": "other",
        "license_name": "; ".join(facts.licences) or "unknown",
    }
    licences = (
        f"Licences of all inputs: {', '.join(facts.licences) or 'unknown'}. Personal data: {facts.personal_data}."
    )
    told = {**sections, "Licences and personal data": licences, "Limits": limits}
    parts = [f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---", f"# {facts.name}", summary]
    return "\n\n".join([*parts, *(f"## {title}\n\n{text}" for title, text in told.items())]) + "\n"


def settings_table(config: Mapping[str, Any]) -> str:
    """All settings by name."""
    return "\n".join(["| setting | value |", "|---|---|", *(f"| {name} | {config[name]} |" for name in sorted(config))])


def lineage_table(inputs: Mapping[str, Artefact], *, deeper: bool = False) -> str:
    """The inputs by role, with the beginnings of key and digest; `deeper` adds what each of them was made from."""
    lines = ["| role | artefact | key | digest |", "|---|---|---|---|"]
    for role, artefact in inputs.items():
        lines.append(f"| {role} | {artefact.kind}/{artefact.name} | `{artefact.key[:12]}` | `{artefact.digest[:12]}` |")
        further = artefact.manifest.inputs if deeper else []
        lines += [f"| {role}: {r.role} | {r.kind}/{r.name} | `{r.key[:12]}` | `{r.digest[:12]}` |" for r in further]
    return "\n".join(lines)
