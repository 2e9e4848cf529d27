"""Student or base: which of the two is served, and the sentence that says why.

A student costs what its base costs, so quality alone decides: the student is served when its measure is higher than
the base's and chance does not explain it (paired randomisation test, which is valid for few queries too). Everything
else is answered with the base, said aloud: an unproven student is never served silently.
"""

from __future__ import annotations

from collections.abc import Mapping

from retort.evaluation import wording
from retort.metrics.significance import paired_bootstrap, randomisation_test


def decide(
    student: Mapping[str, float],
    base: Mapping[str, float],
    *,
    measure: str,
    split: str,
    alpha: float,
    samples: int,
    seed: int,
) -> dict[str, object]:
    """The verdict on one set of queries.

    Args:
        student, base: The measure per query; the same queries in both.
        measure: Its name, for the sentence.
        split: "dev" or "test", for the sentence.
        alpha: The student must reach a p below this.
        samples, seed: For bootstrap and randomisation.

    Returns:
        `{"serve": "student" | "base", "why": sentence, "split", "measure", "queries", "difference", "low", "high",
        "p", "alpha"}`.
    """
    difference = paired_bootstrap(student, base, samples=samples, seed=seed)
    p = randomisation_test(student, base, samples=samples, seed=seed)
    better = difference.mean > 0
    proven = better and p < alpha
    return {
        "serve": "student" if proven else "base",
        "why": _sentence(
            difference.mean, difference.low, difference.high, p, measure, split, difference.queries, alpha
        ),
        "split": split,
        "measure": measure,
        "queries": difference.queries,
        "difference": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "p": p,
        "alpha": alpha,
    }


def _sentence(
    mean: float, low: float, high: float, p: float, measure: str, split: str, queries: int, alpha: float
) -> str:
    name = wording.measure_title(measure)
    evidence = (
        f"on {queries:,} {split} queries its {name} is {{}} (difference {wording.change(mean)}, 95 % interval "
        f"{wording.change(low)} to {wording.change(high)}, {wording.p_value(p)})"
    )
    if mean > 0 and p < alpha:
        return f"The student is better than its base: {evidence.format('higher than the base encoder’s')}. The student is served."
    if mean > 0:
        return (
            f"The student is not proven better than its base: {evidence.format('a little higher than the base encoder’s')}, which "
            f"chance explains too easily (needed: p < {alpha:g}). The base encoder is served. More {split} queries or more "
            f"training would settle it."
        )
    return (
        f"The student is not better than its base: {evidence.format('no higher than the base encoder’s')}. The base encoder is "
        f"served. More training queries, more steps or a better teacher may change that."
    )
