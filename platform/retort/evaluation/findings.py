"""From runs and qrels to the numbers of a report: means with intervals, differences with p, slices.

Pure: per-query values in, JSON-ready values out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from retort.metrics.measures import mean
from retort.metrics.significance import bootstrap_interval, paired_bootstrap, randomisation_test
from retort.metrics.simultaneous import simultaneous_bounds

PerQuery = Mapping[str, float]
Scores = Mapping[str, Mapping[str, PerQuery]]
"""`{system: {measure: {query_id: value}}}`."""

COMPARISONS: Final = (("student", "base"), ("student", "bm25"), ("base", "bm25"), ("teacher", "student"))
SLICE_MEASURE: Final = "mrr@10"
LEAST_QUERIES: Final = 20
"""Slices with fewer queries are put together: their means say nothing."""
MOST_VALUES: Final = 12
"""At most so many slices per property; the rarest go into one."""
LENGTH_BINS: Final = 4


@dataclass(frozen=True, kw_only=True)
class QueryFacts:
    """What a query can be sliced by."""

    passage_words: int
    section: str
    lang: str
    origin: str


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Some of the queries, by one property."""

    by: str
    label: str
    queries: tuple[str, ...]


def intervals(scores: Scores, *, samples: int, seed: int) -> dict[str, dict[str, Any]]:
    """`{system: {measure: {mean, low, high, queries}}}` with 95 % percentile bootstrap intervals over queries."""
    found: dict[str, dict[str, Any]] = {}
    for system, measures in scores.items():
        found[system] = {}
        for measure, values in measures.items():
            interval = bootstrap_interval(values, samples=samples, seed=seed)
            found[system][measure] = {
                "mean": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "queries": interval.queries,
            }
    return found


def differences(scores: Scores, *, samples: int, seed: int) -> list[dict[str, Any]]:
    """Each pair of `COMPARISONS` that is there, on each measure, over the queries that both answered.

    `p` is the randomisation test's, `p_bootstrap` the paired bootstrap's (which also gives the interval).
    """
    rows: list[dict[str, Any]] = []
    for a, b in COMPARISONS:
        if a not in scores or b not in scores:
            continue
        for measure in scores[a]:
            common = [query for query in scores[a][measure] if query in scores[b][measure]]
            left = {query: scores[a][measure][query] for query in common}
            right = {query: scores[b][measure][query] for query in common}
            difference = paired_bootstrap(left, right, samples=samples, seed=seed)
            rows.append(
                {
                    "a": a,
                    "b": b,
                    "measure": measure,
                    "mean": difference.mean,
                    "low": difference.low,
                    "high": difference.high,
                    "p": randomisation_test(left, right, samples=samples, seed=seed),
                    "p_bootstrap": difference.p,
                    "queries": difference.queries,
                }
            )
    return rows


def cut_slices(facts: Mapping[str, QueryFacts]) -> list[Slice]:
    """Slices by passage length (bins of about equal size), section, language and query origin.

    A property with a single value for all queries gives none.
    """
    found = _length_slices({query: fact.passage_words for query, fact in facts.items()})
    for by in ("section", "lang", "origin"):
        found += _value_slices({query: str(getattr(fact, by)) for query, fact in facts.items()}, by)
    return found


def slice_rows(slices: Sequence[Slice], scores: Scores, *, samples: int, seed: int) -> list[dict[str, Any]]:
    """Per slice the mean of `SLICE_MEASURE` per system, and student - base with bounds that hold for all slices
    together.

    Returns:
        `{"by", "label", "queries", "measure", "systems": {name: mean | None}, "difference": {mean, low, high} | None}`.
    """
    bounds = {}
    if "student" in scores and "base" in scores:
        student, base = scores["student"][SLICE_MEASURE], scores["base"][SLICE_MEASURE]
        groups = {
            f"{item.by} {item.label}": {query: student[query] - base[query] for query in item.queries}
            for item in slices
        }
        large_enough = {name: values for name, values in groups.items() if len(values) >= 2}
        if large_enough:
            bounds = simultaneous_bounds(large_enough, sides="both", samples=samples, seed=seed)
    rows: list[dict[str, Any]] = []
    for item in slices:
        bound = bounds.get(f"{item.by} {item.label}")
        rows.append(
            {
                "by": item.by,
                "label": item.label,
                "queries": len(item.queries),
                "measure": SLICE_MEASURE,
                "systems": {
                    system: _mean_of(measures[SLICE_MEASURE], item.queries) for system, measures in scores.items()
                },
                "difference": None if bound is None else {"mean": bound.mean, "low": bound.low, "high": bound.high},
            }
        )
    return rows


def _mean_of(values: PerQuery, queries: Sequence[str]) -> float | None:
    there = [values[query] for query in queries if query in values]
    return mean(there) if there else None


def _length_slices(words: Mapping[str, int]) -> list[Slice]:
    """Quantile bins of the relevant passage's length; bins that would be empty (many equal lengths) fall away."""
    if len(words) < 2 * LEAST_QUERIES:
        return []
    quantiles = np.quantile(list(words.values()), np.arange(1, LENGTH_BINS) / LENGTH_BINS, method="lower")
    edges = sorted({int(edge) for edge in quantiles if edge < max(words.values())})
    found = []
    for low, high in zip([-1, *edges], [*edges, None], strict=True):
        queries = tuple(query for query, count in words.items() if count > low and (high is None or count <= high))
        label = (
            f"over {low} words" if high is None else f"up to {high} words" if low < 0 else f"{low + 1} to {high} words"
        )
        found.append(Slice(by="length", label=label, queries=queries))
    return found if len(found) > 1 else []


def _value_slices(values: Mapping[str, str], by: str) -> list[Slice]:
    """One slice per frequent value, most frequent first, and one for the rest."""
    counts = Counter(values.values())
    if len(counts) < 2:
        return []
    ordered = sorted(counts, key=lambda value: (-counts[value], value))
    kept = [value for value in ordered if counts[value] >= LEAST_QUERIES][:MOST_VALUES]
    found = [
        Slice(by=by, label=value or "(none)", queries=tuple(query for query, own in values.items() if own == value))
        for value in kept
    ]
    rest = tuple(query for query, own in values.items() if own not in kept)
    if rest:
        found.append(Slice(by=by, label=f"{len(counts) - len(kept)} others", queries=rest))
    return found if len(found) > 1 else []
