"""From a teacher's scores of labelled candidates to the figures of its audit. Pure: pairs and scores in, JSON-ready values out.

    agreement_figures   pair accuracy, nDCG@10 and MRR@10 with intervals over queries, and the search's own
    gap_of, against_search, length_correlation, slices_of, worst_slice, calibration_of
    teachers_agree      how alike two teachers order the same candidates

Unlabelled candidates count as not relevant, as in training. Some of them are relevant and nobody said so: a good teacher loses
a little accuracy to them, every teacher alike; disagreements.py lists the likeliest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import rankdata

from retort.metrics.measures import evaluate
from retort.metrics.significance import Interval, bootstrap_interval, paired_bootstrap
from retort.teaching.audit_pairs import Pairs
from retort.teaching.calibration import cross_fitted, reliability
from retort.teaching.concordance import by_query, label_concordance, order_concordance
from retort.teaching.trust import length_edges, length_labels

__all__ = [
    "NO_LABEL", "against_search", "agreement_figures", "calibration_of", "gap_of", "length_correlation", "slice_labels", "slices_of", "teachers_agree", "worst_slice",
]  # fmt: skip

Floats = NDArray[np.float64]
MEASURES = ("ndcg@10", "mrr@10")
LEAST_SLICE_QUERIES = 20
"""Slices with fewer queries are put together: their means say nothing."""
MOST_VALUES = 12
NO_LABEL = "(none)"
"""What is shown for pairs without a language or a section."""
SAMPLES = 2000


def agreement_figures(pairs: Pairs, scores: Floats, seed: int) -> dict[str, Any]:
    """Agreement of the teacher with the labels, over all candidates that have a score.

    Returns:
        queries, pairs, unread (pairs without a score), pair_accuracy and the measures as {mean, low, high, queries} or None
        (fewer than two queries), and `search`: the same measures of the search that found the candidates, or None.
    """
    accuracy = by_query(label_concordance(scores, pairs.relevant, pairs.query), pairs.query, pairs.relevant)
    found: dict[str, Any] = {
        "queries": len(pairs.queries),
        "pairs": len(pairs),
        "unread": int(np.isnan(scores).sum()),
        "pair_accuracy": _interval(accuracy, seed),
        "search": None,
    }
    values = evaluate(_run(pairs, scores), pairs.qrels, MEASURES)
    found |= {name: _interval(of_query, seed) for name, of_query in values.items()}
    if pairs.search is not None:
        ranked = evaluate(_search_run(pairs), pairs.qrels, MEASURES)
        found["search"] = {"source": pairs.search} | {name: _interval(own, seed) for name, own in ranked.items()}
    return found


def gap_of(seen: tuple[Pairs, Floats] | None, unseen: tuple[Pairs, Floats], seed: int) -> dict[str, Any] | None:
    """Return mean and interval of (seen - unseen) pair accuracy, from independent resamples of both; None where one is missing."""
    if seen is None:
        return None
    means = []
    for number, (pairs, scores) in enumerate((seen, unseen)):
        accuracy = by_query(label_concordance(scores, pairs.relevant, pairs.query), pairs.query, pairs.relevant)
        values = np.array(list(accuracy.values()))
        if len(values) < 2:
            return None
        rows = np.random.default_rng([seed, number]).integers(0, len(values), size=(SAMPLES, len(values)))
        means.append((float(values.mean()), values[rows].mean(axis=1)))
    low, high = np.percentile(means[0][1] - means[1][1], [2.5, 97.5])
    return {"mean": means[0][0] - means[1][0], "low": float(low), "high": float(high)}


def against_search(pairs: Pairs, scores: Floats, seed: int) -> dict[str, Any] | None:
    """Return nDCG@10 of teacher - search, both ordering only what the search found; None where no search ranked."""
    if pairs.search is None or len(pairs.queries) < 2:
        return None
    ours = evaluate(_run(pairs, np.where(pairs.search_rank > 0, scores, np.nan)), pairs.qrels, MEASURES[:1])[
        MEASURES[0]
    ]
    theirs = evaluate(_search_run(pairs), pairs.qrels, MEASURES[:1])[MEASURES[0]]
    difference = paired_bootstrap(ours, theirs, samples=SAMPLES, seed=seed)
    return {
        "source": pairs.search,
        "mean": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "p": difference.p,
        "queries": difference.queries,
    }


def calibration_of(pairs: Pairs, scores: Floats) -> dict[str, Any]:
    """Return {"raw": reliability of sigmoid(logit), "fitted": after shift and scale, or None}."""
    there = np.isfinite(scores)
    relevant, query = pairs.relevant[there], pairs.query[there]
    fitted = cross_fitted(scores[there], relevant, query) if len(np.unique(query)) >= 4 else None
    return {
        "raw": reliability(expit(scores[there]), relevant),
        "fitted": reliability(fitted, relevant) if fitted is not None else None,
    }


def length_correlation(pairs: Pairs, scores: Floats, seed: int) -> dict[str, Any] | None:
    """Return Spearman's correlation of score and passage length among each query's candidates that are not relevant.

    Both are taken relative to their query's mean, so that long-winded topics do not count; with an interval over queries. None
    where there is nothing to correlate. A relevant passage may well be longer: it answers more.
    """
    rows = np.flatnonzero(np.isfinite(scores) & ~pairs.relevant)
    names, place, counts = np.unique(pairs.query[rows], return_inverse=True, return_counts=True)
    usable = counts[place] >= 2
    rows = rows[usable]
    names, place = np.unique(pairs.query[rows], return_inverse=True)
    if len(names) < 2:
        return None
    length = np.log1p(np.array(pairs.facts.words, dtype=np.float64)[rows])
    ranks = [rankdata(_centred(values, place)) for values in (scores[rows], length)]
    x, y = (values - values.mean() for values in ranks)
    if not x.any() or not y.any():
        return None
    # Sums per query: a resample of queries is then a weighted sum.
    sums = np.stack(
        [np.bincount(place, weights=v) for v in (np.ones(len(x)), x, y, x * x, y * y, x * y)]
    )  # [6, queries]
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=SAMPLES)
    low, high = np.percentile(_correlation(drawn.astype(np.float64) @ sums.T), [2.5, 97.5])
    mean = float(_correlation(sums.sum(axis=1)[None, :])[0])
    return {"mean": mean, "low": float(low), "high": float(high), "queries": len(names), "pairs": len(rows)}


def slice_labels(pairs: Pairs) -> dict[str, list[str]]:
    """Return the label of each pair by length, language and section; rare values are put together."""
    facts = pairs.facts
    return {
        "length": length_labels(facts.words, length_edges(np.array(facts.words))),
        "language": _frequent(facts.language, pairs.query),
        "section": _frequent(facts.section, pairs.query),
    }


def slices_of(pairs: Pairs, scores: Floats, thirds: Sequence[str | None], seed: int) -> list[dict[str, Any]]:
    """Return accuracy and mean scores by passage length, language, section, and (relevant passages only) place of the answer.

    Returns:
        {"by", "label", "queries", "pairs", "accuracy": {mean, low, high, queries} | None, "relevant", "other": mean score | None};
        a property with one value gives none.
    """
    concordance = label_concordance(scores, pairs.relevant, pairs.query)
    labels = slice_labels(pairs) | {"position": [third or "" for third in thirds]}
    rows: list[dict[str, Any]] = []
    for by, own in labels.items():
        # By length from short to long, by place from first to last, else the most frequent first.
        names = list(dict.fromkeys(_ordered(by, own)))
        if len(names) < 2:
            continue
        values = np.array(own, dtype=object)
        for name in names:
            here = values == name
            rows.append({"by": by, "label": name or NO_LABEL} | _slice(pairs, scores, concordance, here, seed))
    return rows


def worst_slice(slices: Sequence[Mapping[str, Any]], whole: float | None) -> dict[str, Any] | None:
    """Return the slice of {"by", "label", "loss"} whose accuracy is surely lowest: the upper end of its interval against the whole.

    Of a dozen slices one is always low by chance; the interval's end is not.
    """
    large = [row for row in slices if row["accuracy"] is not None and row["accuracy"]["queries"] >= LEAST_SLICE_QUERIES]
    if whole is None or not large:
        return None
    worst = min(large, key=lambda row: row["accuracy"]["high"])
    return {"by": worst["by"], "label": worst["label"], "loss": max(0.0, whole - worst["accuracy"]["high"])}


def teachers_agree(pairs: Pairs, scores: Floats, other: Floats) -> float | None:
    """Return the share of candidate pairs (of one query) that two teachers order alike, mean over queries."""
    values = by_query(order_concordance(scores, other, pairs.query), pairs.query)
    return float(np.mean(list(values.values()))) if values else None


def _slice(pairs: Pairs, scores: Floats, concordance: Floats, here: NDArray[np.bool_], seed: int) -> dict[str, Any]:
    there = here & np.isfinite(scores)
    return {
        "queries": len(np.unique(pairs.query[here])),
        "pairs": int(here.sum()),
        "accuracy": _interval(by_query(concordance, pairs.query, here), seed),
        "relevant": _mean(scores[there & pairs.relevant]),
        "other": _mean(scores[there & ~pairs.relevant]),
    }


def _run(pairs: Pairs, scores: Floats) -> dict[str, dict[str, float]]:
    run: dict[str, dict[str, float]] = {}
    for row in np.flatnonzero(np.isfinite(scores)).tolist():
        query, passage = pairs.ids[row]
        run.setdefault(query, {})[passage] = float(scores[row])
    return run


def _search_run(pairs: Pairs) -> dict[str, dict[str, float]]:
    return _run(pairs, np.where(pairs.search_rank > 0, -pairs.search_rank.astype(np.float64), np.nan))


def _interval(values: Mapping[Any, float], seed: int) -> dict[str, Any] | None:
    if len(values) < 2:
        return None
    found: Interval = bootstrap_interval(list(values.values()), samples=SAMPLES, seed=seed)
    return {"mean": found.mean, "low": found.low, "high": found.high, "queries": found.queries}


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def _centred(values: Floats, place: NDArray[np.int64]) -> Floats:
    means: Floats = np.bincount(place, weights=values) / np.bincount(place)
    return values - means[place]


def _correlation(sums: Floats) -> Floats:
    """Pearson's correlation from rows of (n, x, y, xx, yy, xy) sums; 0 where one side does not vary."""
    n, x, y, xx, yy, xy = sums.T
    spread = np.sqrt(np.maximum((n * xx - x * x) * (n * yy - y * y), 0))
    found: Floats = np.where(spread > 0, (n * xy - x * y) / np.where(spread > 0, spread, 1), 0.0)
    return found


def _frequent(values: Sequence[str], query: NDArray[np.int64]) -> list[str]:
    """Put values that few queries have together under "N others"."""
    queries = Counter(value for value, _ in set(zip(values, query.tolist(), strict=True)))
    kept = {value for value, count in queries.most_common(MOST_VALUES) if count >= LEAST_SLICE_QUERIES}
    others = f"{len(queries) - len(kept)} others"
    return [value if value in kept else others for value in values]


def _ordered(by: str, labels: Sequence[str]) -> list[str]:
    if by == "position":
        return [third for third in ("first third", "middle third", "last third") if third in labels]
    if by == "length":
        return sorted(
            set(labels),
            key=lambda label: (
                label.startswith("over"),
                not label.startswith("up to"),
                int(label.split()[0]) if label[0].isdigit() else 0,
            ),
        )
    counts = Counter(labels)
    return sorted(counts, key=lambda label: (label.endswith(" others"), -counts[label], label))
