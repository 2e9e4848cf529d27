"""Retrieval measures per query, computed by pytrec_eval (trec_eval's own C code) behind ir_measures.

Definitions, with rel = "grade of at least 1" and ranks counted from 1:

    mrr@k      1 / rank of the first relevant passage, 0 when that rank is above k
    ndcg@k     DCG@k / DCG@k of the best possible ranking, DCG@k = sum of grade / log2(rank + 1); the gain is the
               grade itself (trec_eval; not 2^grade - 1), negative grades gain nothing
    recall@k   relevant passages among the first k / all relevant passages
    success@k  1 when any of the first k is relevant, else 0

Ranking is trec_eval's: by score as float32, descending; equal scores by passage id in *descending* order of its UTF-8
bytes, whatever order the run came in. (Search breaks its ties by ascending id: where scores are equal, the rank that a
user sees and the rank measured here may differ. It is fixed and favours no system.)

A query that has qrels and is absent from the run counts 0, as with trec_eval -c; so does one whose qrels hold nothing
relevant. Queries without qrels are left out. Differences of means and their intervals: significance.py.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import ir_measures

from retort.errors import InputError

Run = Mapping[str, Mapping[str, float]]
Qrels = Mapping[str, Mapping[str, int]]

DEFAULT_MEASURES: Final = ("mrr@10", "ndcg@10", "recall@100")

# pytrec_eval has no cut-off for the reciprocal rank: it is computed whole, and cut in `_cut_reciprocal_rank`.
_FAMILIES: Final[Mapping[str, Any]] = {
    "mrr": lambda k: ir_measures.RR,
    "ndcg": lambda k: ir_measures.nDCG @ k,
    "recall": lambda k: ir_measures.R @ k,
    "success": lambda k: ir_measures.Success @ k,
}
_NAME: Final = re.compile(r"([a-z]+)@([1-9][0-9]*)")


def parse_measure(name: str) -> tuple[str, int]:
    """`"ndcg@10"` -> `("ndcg", 10)`.

    Raises:
        InputError: the name is not `family@k` with a known family and a whole k of at least 1.
    """
    match = _NAME.fullmatch(name.strip().lower())
    if match is None or match[1] not in _FAMILIES:
        known = ", ".join(f"{family}@k" for family in _FAMILIES)
        raise InputError(
            f"Unknown measure {name!r}: expected one of {known} with k a whole number of at least 1, "
            "for example 'ndcg@10'."
        )
    return match[1], int(match[2])


def evaluate(run: Run, qrels: Qrels, measures: Sequence[str] = DEFAULT_MEASURES) -> dict[str, dict[str, float]]:
    """The value of each measure for each query of `qrels`.

    Args:
        run: Scores by query and passage; numpy numbers are fine. Queries without qrels are ignored.
        qrels: Grades by query and passage; 1 and above is relevant.
        measures: Names as in `parse_measure`.

    Returns:
        `{measure name as given: {query_id: value in [0, 1]}}`, queries in the order of `qrels`.

    Raises:
        InputError: an unknown measure, or a score that is not a number (no ranking is defined by NaN).
    """
    parsed = {name: parse_measure(name) for name in measures}
    objects = {name: _FAMILIES[family](k) for name, (family, k) in parsed.items()}
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(qrels, 0.0) for name in measures}
    plain_run = _plain_run(run, qrels)
    if not plain_run or not objects:
        return values
    plain_qrels = {query: {passage: int(grade) for passage, grade in grades.items()} for query, grades in qrels.items()}
    names_of: dict[Any, list[str]] = {}
    for name, measure in objects.items():
        names_of.setdefault(measure, []).append(name)
    for metric in ir_measures.pytrec_eval.iter_calc(list(names_of), plain_qrels, plain_run):
        for name in names_of[metric.measure]:
            family, k = parsed[name]
            value = float(metric.value)
            values[name][metric.query_id] = _cut_reciprocal_rank(value, k) if family == "mrr" else value
    return values


def mean(values: Mapping[str, float] | Iterable[float]) -> float:
    """The mean over queries; NaN when there are none (a measure over no queries has no value)."""
    numbers = list(values.values() if isinstance(values, Mapping) else values)
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def _cut_reciprocal_rank(value: float, k: int) -> float:
    """1/rank, or 0 when the rank is above k; through the whole rank, so that 1/k itself never falls to rounding."""
    return value if value > 0 and round(1 / value) <= k else 0.0


def _plain_run(run: Run, qrels: Qrels) -> dict[str, dict[str, float]]:
    """The judged queries of the run with Python floats, as pytrec_eval's C code demands."""
    plain: dict[str, dict[str, float]] = {}
    for query in qrels:
        scores = {passage: float(score) for passage, score in run.get(query, {}).items()}
        for passage, score in scores.items():
            if math.isnan(score):
                raise InputError(
                    f"The run scores passage {passage!r} of query {query!r} as NaN: expected numbers. "
                    "Look for NaN in the model's outputs."
                )
        if scores:
            plain[query] = scores
    return plain
