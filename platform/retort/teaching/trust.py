"""How far each judgement of an audited teacher is to be believed: a weight in [0, 1]. Pure functions over arrays.

    trust = reliability(slice) * agreement(pair)

*Reliability.* The audit gives, for each judgement, the share of comparisons with oppositely labelled candidates of its query
that the teacher got right (concordance.py). Passage length, language and section explain it by a linear model

    accuracy(pair) = whole + effect(length bin) + effect(language) + effect(section)

whose effects are shrunk: weighted ridge regression, each query weighing 1 in all, with a penalty of `prior` queries per
effect. With one property this is exactly (queries * slice mean + prior * whole) / (queries + prior), so that a slice of few
queries is taken for an average one; with several, what two properties explain together is not counted twice. A slice that the
audit did not see has no effect. Then reliability = 2 * accuracy - 1, cut to [0, 1]: a coin deserves 0, no mistake 1.

*Agreement.* Where other teachers judged the same query, the share of its candidates that both put on the same side of this one,
averaged over those teachers, and taken the same way: 2 * share - 1, cut to [0, 1]. 1 where nobody else judged it.

The figures are absolute, not relative to the best slice: a weak teacher is to teach less everywhere than the labels do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from retort.teaching.concordance import order_concordance

__all__ = [
    "PROPERTIES",
    "PairFacts",
    "Reliability",
    "agreement",
    "length_edges",
    "length_labels",
    "measure_reliability",
    "over_chance",
]

Floats = NDArray[np.float64]
PROPERTIES = ("length", "language", "section")
LENGTH_BINS = 4


class PairFacts(BaseModel):
    """What a pair can be sliced by; lists run in parallel, [n]."""

    model_config = ConfigDict(frozen=True)

    words: list[int]  # of the passage, title included
    language: list[str]  # of the query, or "query->passage" where they differ
    section: list[str]


class Effect(BaseModel):
    """One slice: how much more (less) accurate the teacher is there than on the whole."""

    model_config = ConfigDict(frozen=True)

    effect: float  # after shrinking
    queries: float  # a query with half of its judgements here counts half


class Reliability(BaseModel):
    """A teacher's measured accuracy and its shrunken effects; written into audit.json, read when it scores."""

    model_config = ConfigDict(frozen=True)

    whole: float
    queries: int
    prior: float
    edges: list[int]  # words: bin i holds passages of up to edges[i] words, the last bin the longer ones
    effects: dict[str, dict[str, Effect]]  # property -> slice -> effect

    def accuracy(self, facts: PairFacts) -> Floats:
        """Return the expected accuracy of each pair, [n] in [0, 1]."""
        found = np.full(len(facts.words), self.whole)
        for name, labels in _labels(facts, self.edges).items():
            effects = {label: one.effect for label, one in self.effects.get(name, {}).items()}
            found += np.array([effects.get(label, 0.0) for label in labels])
        clipped: Floats = np.clip(found, 0.0, 1.0)
        return clipped

    def trust(self, facts: PairFacts) -> Floats:
        """Return the reliability of each pair, [n] in [0, 1]."""
        return over_chance(self.accuracy(facts))


def measure_reliability(facts: PairFacts, concordance: Floats, query: NDArray[np.int64], prior: float) -> Reliability:
    """Explain the concordance of audited judgements by their slices.

    Args:
        facts: of the judgements.
        concordance: [n] from `label_concordance`; NaN where there was nothing to compare with.
        query: [n] number of the query.
        prior: queries' worth of belief that a slice is like the whole; above 0.
    """
    there = np.isfinite(concordance)
    _, place, counts = np.unique(query[there], return_inverse=True, return_counts=True)
    weights = 1.0 / counts[place]  # [judgements]: each query weighs 1
    edges = length_edges(np.array(facts.words)[there])
    if not len(weights):
        return Reliability(whole=0.5, queries=0, prior=prior, edges=edges, effects={})
    whole = float(np.average(concordance[there], weights=weights))
    names: list[tuple[str, str]] = []
    columns: list[NDArray[np.bool_]] = []
    for name, labels in _labels(facts, edges).items():
        own = np.array(labels, dtype=object)[there]
        present = sorted(set(own.tolist()))
        # One value for all explains nothing, and its column would move the whole.
        for label in present if len(present) > 1 else ():
            names.append((name, label))
            columns.append(own == label)
    design = np.array(columns, dtype=np.float64).reshape(-1, len(weights)).T  # [judgements, slices]
    weighted = design * weights[:, None]
    effects = np.linalg.solve(
        design.T @ weighted + prior * np.eye(len(names)), weighted.T @ (concordance[there] - whole)
    )
    table: dict[str, dict[str, Effect]] = {name: {} for name in PROPERTIES}
    for (name, label), effect, size in zip(names, effects, weighted.sum(axis=0), strict=True):
        table[name][label] = Effect(effect=round(float(effect), 6), queries=round(float(size), 3))
    return Reliability(whole=round(whole, 6), queries=len(counts), prior=prior, edges=edges, effects=table)


def agreement(scores: Floats, others: Sequence[Floats], query: NDArray[np.int64]) -> Floats:
    """Return how far other teachers put each candidate where this one does, [n] in [0, 1]; 1 where none judged it.

    `others` are [n] scores of the same pairs, NaN where a teacher did not judge one.
    """
    if not others:
        return np.ones(len(scores))
    shares = np.stack([order_concordance(scores, other, query) for other in others])  # [teachers, n]
    judged = np.isfinite(shares)
    mean = np.where(judged, shares, 0.0).sum(axis=0) / np.maximum(judged.sum(axis=0), 1)
    return np.where(judged.any(axis=0), over_chance(mean), 1.0)


def over_chance(share: Floats) -> Floats:
    """Return 2 * share - 1, cut to [0, 1]: what is left of a share of right comparisons when a coin's half is taken off."""
    return np.clip(2.0 * share - 1.0, 0.0, 1.0)


def length_edges(words: NDArray[np.integer]) -> list[int]:
    """Return the upper ends, in words, of all length bins but the last; bins hold about equally many judgements."""
    if not len(words):
        return []
    quantiles = np.quantile(words, np.arange(1, LENGTH_BINS) / LENGTH_BINS, method="lower")
    return sorted({int(edge) for edge in quantiles if edge < words.max()})


def length_labels(words: Sequence[int], edges: Sequence[int]) -> list[str]:
    """Return the length bin of each passage, as readers see it."""
    names = [f"up to {edge} words" if i == 0 else f"{edges[i - 1] + 1} to {edge} words" for i, edge in enumerate(edges)]
    names.append(f"over {edges[-1]} words" if edges else "any length")
    return [names[i] for i in np.searchsorted(np.array(edges), np.array(words, dtype=np.int64), side="left").tolist()]


def _labels(facts: PairFacts, edges: Sequence[int]) -> Mapping[str, Sequence[str]]:
    return {"length": length_labels(facts.words, edges), "language": facts.language, "section": facts.section}
