"""Scoring on Ray Data: a pool of actors, each with a teacher, each judging whole parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.models.cross_encoder import CrossEncoder
from retort.progress import Progress
from retort.runtime.stages import map_parts
from retort.store import Artefact, Draft
from retort.teaching.reuse import ReuseIndex
from retort.teaching.scorer import PartScorer, QueryTexts, TeacherJudge

if TYPE_CHECKING:
    from retort.teaching.score import ScoreConfig

__all__ = ["ScoringActor", "score_parts"]


class ScoringActor:
    """Opens teacher, texts and earlier scores once, then judges the parts it is given."""

    def __init__(
        self, draft: Draft, inputs: Mapping[str, Artefact], settings: Mapping[str, Any], earlier: Artefact | None
    ) -> None:
        teacher = CrossEncoder.load(
            inputs["teacher"].local(), precision=settings["precision"], max_tokens=settings["max_tokens"]
        )
        self._scorer = PartScorer(
            draft=draft,
            candidates=inputs["candidates"],
            queries=QueryTexts(QuerySet.open(inputs["queries"])),
            passages=Passages.open(inputs["corpus"]),
            judge=TeacherJudge(teacher, **settings["judge"]),
            reuse=ReuseIndex.open(earlier) if earlier is not None else None,
        )

    def __call__(self, part: str) -> dict[str, Any]:
        """Judge one part; return numbers about it."""
        return self._scorer(part)


def score_parts(
    config: ScoreConfig,
    draft: Draft,
    inputs: Mapping[str, Artefact],
    parts: list[str],
    earlier: Artefact | None,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Judge `parts`; return {pairs, quarantined, reused, seconds} of each."""
    if not parts:
        return []
    settings = {
        "precision": config.precision,
        "max_tokens": config.max_tokens,
        "judge": {
            "word_level": config.word_level,
            "top_k": config.top_k,
            "layers": config.layers,
            "heads": config.heads,
            "token_budget": config.token_budget,
        },
    }
    candidates = inputs["candidates"]
    rows = {part: float(candidates.part(part, columns=["query_id"]).num_rows) for part in parts}
    return map_parts(
        ScoringActor,
        {"draft": draft, "inputs": dict(inputs), "settings": settings, "earlier": earlier},
        parts,
        config.resources,
        describe="judging pairs",
        progress=progress,
        weights=rows,
    )
