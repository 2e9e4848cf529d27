"""Is a difference between two systems real? Paired tests over queries, for one comparison.

Many groups or several looks at once need simultaneous.py: twenty 95 % intervals are not all right 95 % of the time.

Scores come as `{query_id: value}` (measures.py) or as plain sequences in the same order. Differences are always a - b,
on the measure's own scale (0.01 of MRR is one point). All draws come from the seed: the same input gives the same
numbers.

Sources: Sakai, "Evaluating evaluation metrics based on the bootstrap" (SIGIR 2006); Smucker, Allan and Carterette, "A
comparison of statistical significance tests for information retrieval evaluation" (CIKM 2007).
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from retort.errors import InputError

Floats = NDArray[np.float64]
Scores = Mapping[str, float] | Sequence[float] | Floats

# Draws are made in blocks of this many numbers: some 16 MB whatever the number of queries.
_BLOCK_NUMBERS: Final = 2_000_000
# Means of the same numbers summed in another order differ by rounding; they are ties, not differences.
_ROUNDING: Final = 1e-12
# Up to here all 2^n sign patterns are tried instead of a sample of them.
_EXACT_QUERIES: Final = 13


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over queries with its percentile bootstrap interval."""

    mean: float
    low: float
    high: float
    queries: int
    level: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference(Interval):
    """The mean of a - b over queries, its interval, and the two-sided p of "there is no difference"."""

    p: float


def bootstrap_interval(values: Scores, *, samples: int = 10_000, level: float = 0.95, seed: int = 13) -> Interval:
    """The mean of one system's per-query values with its percentile bootstrap interval over queries.

    Raises:
        InputError: fewer than two queries.
    """
    numbers = _numbers(values)
    means = _resampled_means(numbers, samples, seed)
    return Interval(mean=float(numbers.mean()), **_percentiles(means, level), queries=len(numbers), level=level)


def paired_bootstrap(a: Scores, b: Scores, *, samples: int = 10_000, level: float = 0.95, seed: int = 13) -> Difference:
    """Mean of a - b with its percentile interval and two-sided p, resampling queries with replacement.

    p is the share of resamples, moved to a mean of zero, whose mean is at least as far from zero as the one seen
    (counting the one seen, so never 0). With a handful of queries the bootstrap is too sure of itself: there, trust
    `randomisation_test`.

    Raises:
        InputError: fewer than two queries, or other queries in a than in b.
    """
    differences = paired_differences(a, b)
    mean = float(differences.mean())
    means = _resampled_means(differences, samples, seed)
    extreme = int(np.count_nonzero(np.abs(means - mean) >= abs(mean) - _ROUNDING))
    percentiles = _percentiles(means, level)
    return Difference(mean=mean, **percentiles, p=(1 + extreme) / (1 + samples), queries=len(differences), level=level)


def randomisation_test(a: Scores, b: Scores, *, samples: int = 10_000, seed: int = 13) -> float:
    """Two-sided p of Fisher's paired randomisation test: under "no difference" each query's a and b could be exchanged.

    Valid for any number of queries; up to 13 of them all exchanges are tried (then the p is exact), beyond, `samples`
    random ones.

    Raises:
        InputError: fewer than two queries, or other queries in a than in b.
    """
    differences = paired_differences(a, b)
    seen = abs(float(differences.mean())) - _ROUNDING
    count = len(differences)
    if count <= _EXACT_QUERIES:
        patterns = np.arange(2**count)[:, None] >> np.arange(count) & 1  # [2^queries, queries]
        means = (1 - 2 * patterns) @ differences / count  # [2^queries]
        return float(np.mean(np.abs(means) >= seen))
    rng = np.random.default_rng(seed)
    extreme = 0
    for rows in _blocks(samples, count):
        signs = rng.integers(0, 2, size=(rows, count), dtype=np.int8) * 2.0 - 1.0  # [rows, queries]
        extreme += int(np.count_nonzero(np.abs(signs @ differences) / count >= seen))
    return (1 + extreme) / (1 + samples)


def seed_mean(scores_by_seed: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Per query, the mean over training seeds: what the paired tests take when a system was trained several times.

    It makes the queries, not the seeds, the units of the test: the answer is about "this recipe, averaged over these
    seeds".

    Raises:
        InputError: no seeds, or seeds that were measured on different queries.
    """
    if not scores_by_seed:
        raise InputError("The mean over seeds needs the scores of at least one seed, and got none.")
    first = scores_by_seed[0]
    for number, scores in enumerate(scores_by_seed[1:], start=2):
        _check_same_queries(first, scores, "seed 1", f"seed {number}")
    return {query: float(np.mean([scores[query] for scores in scores_by_seed])) for query in first}


def paired_differences(a: Scores, b: Scores) -> Floats:
    """a - b per query, float64 [queries], in the order of a.

    Raises:
        InputError: fewer than two queries, other queries in a than in b, or a value that is not finite.
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        _check_same_queries(a, b, "a", "b")
        return _numbers([a[query] - b[query] for query in a])
    if isinstance(a, Mapping) or isinstance(b, Mapping):
        raise TypeError("a and b must be of one kind: both {query_id: value}, or both sequences in the same order")
    if len(a) != len(b):
        raise InputError(f"Paired scores need the same queries on both sides: {len(a)} in a, {len(b)} in b.")
    return _numbers(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64))


def _numbers(values: Scores) -> Floats:
    numbers = np.asarray(list(values.values()) if isinstance(values, Mapping) else values, dtype=np.float64)
    if len(numbers) < 2:
        raise InputError(f"An interval or a test over queries needs at least two queries, and got {len(numbers)}.")
    if not np.isfinite(numbers).all():
        raise InputError("Scores must be finite numbers: there is a NaN or an infinity among them.")
    return numbers


def _check_same_queries(a: Mapping[str, float], b: Mapping[str, float], name_a: str, name_b: str) -> None:
    if a.keys() != b.keys():
        only_a, only_b = sorted(a.keys() - b.keys()), sorted(b.keys() - a.keys())
        raise InputError(
            f"Paired scores need the same queries on both sides: {len(only_a)} are only in {name_a} "
            f"(such as {only_a[:3]}), {len(only_b)} only in {name_b} (such as {only_b[:3]}). "
            "Evaluate both systems on one set of queries."
        )


def _resampled_means(numbers: Floats, samples: int, seed: int) -> Floats:
    """The mean of each of `samples` resamples of the queries, [samples]."""
    rng = np.random.default_rng(seed)
    blocks = [
        numbers[rng.integers(0, len(numbers), size=(rows, len(numbers)))].mean(axis=1)
        for rows in _blocks(samples, len(numbers))
    ]
    return np.concatenate(blocks)


def _blocks(samples: int, width: int) -> Iterator[int]:
    """Numbers of rows that add up to `samples`, each block of bounded memory."""
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}")
    rows = max(1, _BLOCK_NUMBERS // width)
    for start in range(0, samples, rows):
        yield min(rows, samples - start)


def _percentiles(means: Floats, level: float) -> dict[str, float]:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, such as 0.95, not {level}")
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return {"low": float(low), "high": float(high)}
