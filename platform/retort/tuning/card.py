"""The model card of a tuned query encoder: what it is, over which vectors it may be used, and what became of the languages.

Written as README.md at the top of the encoder's folder. Neighbours: `result.py` collects the facts, `models/card.py` is the frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retort.models.card import CardFacts, card, lineage_table, settings_table
from retort.models.dual_encoder import DualEncoder

__all__ = ["CardFacts", "model_card"]


def model_card(encoder: DualEncoder, facts: CardFacts) -> str:
    """The card in Markdown."""
    sections = {
        "Use": _usage(encoder, facts),
        "Quality": _quality(facts.metrics),
        "Tuning": settings_table(facts.config),
        "Data": lineage_table(facts.inputs),
    }
    limits = (
        "Only queries may be encoded with it: its passages would lie in no index. What is said of languages holds for the guard's "
        "queries; languages that are not named were not looked at. `page.html` has every figure."
    )
    return card(facts, sections, summary=_summary(encoder, facts), limits=limits, tags=["query-encoder"])


def _summary(encoder: DualEncoder, facts: CardFacts) -> str:
    metrics = facts.metrics
    return (
        f"A query encoder, tuned from {facts.inputs['encoder'].name} by {metrics['steps']} steps at the constant rate {metrics['rate']:.3g}"
        f"{', the highest found to keep every guarded language' if metrics['rate_found'] else ''}, against stored passage vectors that did "
        f"not change (digest `{metrics['vectors_digest_after'][:12]}` before and after). It makes vectors of {encoder.dimension} numbers that "
        f"search any index of passage space `{metrics['passage_space']}`. {metrics['moved']:.1%} of the trainable weights moved, by "
        f"{metrics['median_ulps']:.0f} units in the last place in the median."
    )


def _usage(encoder: DualEncoder, facts: CardFacts) -> str:
    prompt = ', prompt_name="query"' if any(encoder.prefixes.values()) else ""
    return (
        "Queries with this encoder, passages with its base:\n\n"
        '```python\nfrom sentence_transformers import SentenceTransformer\n\nmodel = SentenceTransformer("path/to/this/folder")\n'
        f'query = model.encode(["a question"]{prompt})\n```\n\n'
        f"`delta.safetensors` is the difference to {facts.inputs['encoder'].name}, without loss."
    )


def _quality(metrics: Mapping[str, Any]) -> str:
    lines = []
    change = metrics.get("target_change")
    if change is not None:
        better = "better" if change > 0 else "**not better**"
        lines.append(
            f"MRR@10 of the tuned task's dev queries: {metrics['target_before']:.4f} before, {metrics['target_before'] + change:.4f} after "
            f"({better} than its base)."
        )
    if metrics["unguarded"]:
        lines.append("**No language was watched**: nothing is known of any other language.")
    elif metrics.get("verdict"):
        lines.append(metrics["verdict"])
    return "\n\n".join(lines) or "Nothing was measured."
