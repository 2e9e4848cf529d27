"""Which hard negatives are false: a threshold on the teacher's score that moves from round to round. Pure functions.

    settings = FilterSettings(method="dynamic")
    outcome = filter_negatives(scores, positive, query, settings=settings, round_number=r, previous=last_threshold)
    outcome.kept                    bool [pairs]: positives, and negatives at or below the threshold
    outcome.audit                   what was dropped and why: numbers, a histogram, examples; `as_json` for a report
    outcome.audit.threshold         hand it to the next round as `previous`

MD2PR (arXiv 2312.16821) says that the threshold is updated during training; how is ours. In round r it is the quantile

    q_r = max(floor, quantile * tighten ** r)        of the scores of this round's positives,

and never above the round before. Early on only negatives that the teacher likes better than its median positive go; later, as
re-mining with a better student brings negatives closer to the positives, more of the doubtful middle. Scores are raw logits,
so that a threshold means the same at both ends of the scale. The baselines: `static` keeps one threshold for all rounds, `none` drops
nothing. `margin` adds a rule per query: a negative within `margin` of its own query's weakest positive goes too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from retort.errors import InputError

__all__ = ["Example", "FilterAudit", "FilterOutcome", "FilterSettings", "filter_negatives", "quantile_of_round"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = 40
EXAMPLES = 10


class FilterSettings(BaseModel):
    """How false negatives are told from hard ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["dynamic", "static", "none"] = Field(
        "dynamic", description="Whether the threshold moves, stands, or is absent."
    )
    quantile: float = Field(
        0.5, gt=0, lt=1, description="Quantile of the positives' scores that is the threshold in the first round."
    )
    tighten: float = Field(0.8, gt=0, le=1, description="Factor on the quantile from each round to the next (dynamic).")
    floor: float = Field(0.2, gt=0, lt=1, description="Lowest quantile that the threshold tightens to (dynamic).")
    threshold: float | None = Field(
        None,
        description="Threshold as a logit (static). Default: the quantile of the first round's positives, kept for all rounds.",
    )
    margin: float | None = Field(
        None,
        description="Also drop a negative that scores above its own query's weakest positive less this many logits. Default: off.",
    )


@dataclass(frozen=True)
class Example:
    """One pair, by its place among the pairs given; the caller knows its texts."""

    pair: int
    score: float
    weakest_positive: float | None
    """Of the same query; None for a query without positives."""


@dataclass(frozen=True)
class FilterAudit:
    """What a round's filter did."""

    method: str
    round_number: int
    threshold: float | None
    previous: float | None
    quantile: float | None
    """Of the positives, that gave the threshold; None where it was handed over or there is none."""
    queries: int
    positives: int
    negatives: int
    dropped: int
    dropped_by_threshold: int
    dropped_by_margin: int
    """Negatives that the margin dropped and the threshold would have kept."""
    queries_with_drops: int
    queries_left_without_negatives: int
    overlap: float | None
    """Probability that a random negative scores above a random positive: how hard the negatives have become."""
    positive_quantiles: dict[str, float] = field(default_factory=dict)
    negative_quantiles: dict[str, float] = field(default_factory=dict)
    histogram: dict[str, list[float]] = field(default_factory=dict)
    """`edges` [bins + 1], and counts [bins] of `positives`, `kept` and `dropped`."""
    most_certain: list[Example] = field(default_factory=list)
    """Dropped negatives with the highest scores."""
    most_doubtful: list[Example] = field(default_factory=list)
    """Dropped negatives with the lowest scores: the first to look at when too much is dropped."""

    @property
    def dropped_share(self) -> float:
        """Share of the negatives that was dropped."""
        return self.dropped / self.negatives if self.negatives else 0.0

    def as_json(self) -> dict[str, Any]:
        """JSON-ready values, `dropped_share` included."""
        return {**asdict(self), "dropped_share": self.dropped_share}


@dataclass(frozen=True)
class FilterOutcome:
    """The mask and its audit."""

    kept: NDArray[np.bool_]  # [pairs]
    audit: FilterAudit


def quantile_of_round(settings: FilterSettings, round_number: int) -> float:
    """The quantile of the positives' scores that is the threshold in this round, counted from 0."""
    if settings.method == "static":
        return settings.quantile
    return max(min(settings.floor, settings.quantile), settings.quantile * settings.tighten**round_number)


def filter_negatives(
    scores: NDArray[np.float32],
    positive: NDArray[np.bool_],
    query: NDArray[np.integer],
    *,
    settings: FilterSettings,
    round_number: int = 0,
    previous: float | None = None,
) -> FilterOutcome:
    """Decide which pairs to keep.

    Args:
        scores: [pairs] the teacher's logits.
        positive: [pairs] whether the passage is labelled relevant; such pairs are always kept.
        query: [pairs] number of the query that each pair belongs to.
        settings: method and its numbers.
        round_number: rounds of mining and scoring before this one.
        previous: the threshold of the round before (`audit.threshold`), None in the first.

    Raises:
        InputError: a score is NaN or infinite, or a threshold is asked of positives and there are none.
    """
    logits = np.asarray(scores, dtype=np.float64)
    positive, query = np.asarray(positive, dtype=bool), np.asarray(query)
    assert logits.shape == positive.shape == query.shape, (logits.shape, positive.shape, query.shape)
    if not np.isfinite(logits).all():
        pair = int(np.flatnonzero(~np.isfinite(logits))[0])
        raise InputError(
            f"The teacher's score of pair {pair} is {scores[pair]}; expected a finite logit. Score again, or leave the pair out."
        )
    threshold, quantile = _threshold(logits[positive], settings, round_number, previous)
    _, group = np.unique(query, return_inverse=True)
    weakest = _weakest_positive(logits, positive, group)  # [queries], inf where there is none
    above = ~positive & (logits > threshold) if threshold is not None else np.zeros(len(logits), dtype=bool)
    near = (
        ~positive & (logits > weakest[group] - settings.margin)
        if settings.margin is not None
        else np.zeros(len(logits), dtype=bool)
    )
    kept = ~(above | near)
    audit = _audit(logits, positive, group, weakest, above, near)
    return FilterOutcome(
        kept,
        FilterAudit(
            method=settings.method,
            round_number=round_number,
            threshold=threshold,
            previous=previous,
            quantile=quantile,
            **audit,
        ),
    )


def _threshold(
    positives: NDArray[np.float64], settings: FilterSettings, round_number: int, previous: float | None
) -> tuple[float | None, float | None]:
    """(threshold, the quantile it is of the positives) of this round."""
    if settings.method == "none":
        return None, None
    if settings.method == "static" and (settings.threshold is not None or previous is not None):
        return (settings.threshold if settings.threshold is not None else previous), None
    if not len(positives):
        raise InputError(
            "Not one of these queries has a labelled passage, so the threshold has no positives to be a quantile of. "
            "Filter with method static and a threshold, or with none."
        )
    quantile = quantile_of_round(settings, round_number)
    found = float(np.quantile(positives, quantile))
    return (found if previous is None else min(found, previous)), quantile


def _weakest_positive(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], group: NDArray[np.int64]
) -> NDArray[np.float64]:
    weakest = np.full(int(group.max(initial=-1)) + 1, np.inf)
    np.minimum.at(weakest, group[positive], scores[positive])
    return weakest


def _audit(
    scores: NDArray[np.float64],
    positive: NDArray[np.bool_],
    group: NDArray[np.int64],
    weakest: NDArray[np.float64],
    above: NDArray[np.bool_],
    near: NDArray[np.bool_],
) -> dict[str, Any]:
    dropped = above | near
    queries = len(weakest)
    negatives_of = np.bincount(group[~positive], minlength=queries)
    dropped_of = np.bincount(group[dropped], minlength=queries)
    places = np.flatnonzero(dropped)
    by_score = places[np.argsort(-scores[places], kind="stable")]

    def examples(pairs: NDArray[np.int64]) -> list[Example]:
        return [
            Example(int(i), float(scores[i]), float(weakest[group[i]]) if np.isfinite(weakest[group[i]]) else None)
            for i in pairs
        ]

    return {
        "queries": queries,
        "positives": int(positive.sum()),
        "negatives": int((~positive).sum()),
        "dropped": int(dropped.sum()),
        "dropped_by_threshold": int(above.sum()),
        "dropped_by_margin": int((near & ~above).sum()),
        "queries_with_drops": int((dropped_of > 0).sum()),
        "queries_left_without_negatives": int(((dropped_of == negatives_of) & (negatives_of > 0)).sum()),
        "overlap": _overlap(scores[positive], scores[~positive]),
        "positive_quantiles": _quantiles(scores[positive]),
        "negative_quantiles": _quantiles(scores[~positive]),
        "histogram": _histogram(scores, positive, dropped),
        "most_certain": examples(by_score[:EXAMPLES]),
        "most_doubtful": examples(by_score[::-1][:EXAMPLES]),
    }


def _overlap(positives: NDArray[np.float64], negatives: NDArray[np.float64]) -> float | None:
    """P(negative > positive), ties counting half."""
    if not len(positives) or not len(negatives):
        return None
    ordered = np.sort(positives)
    below = np.searchsorted(ordered, negatives, side="left") + np.searchsorted(ordered, negatives, side="right")
    return float(below.sum() / (2 * len(positives) * len(negatives)))


def _quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    if not len(values):
        return {}
    return {f"{share:g}": float(value) for share, value in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)}


def _histogram(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], dropped: NDArray[np.bool_]
) -> dict[str, list[float]]:
    if not len(scores):
        return {}
    edges = np.histogram_bin_edges(scores, bins=BINS)
    groups = {"positives": positive, "kept": ~positive & ~dropped, "dropped": dropped}
    return {"edges": edges.tolist()} | {
        name: np.histogram(scores[mask], bins=edges)[0].tolist() for name, mask in groups.items()
    }
