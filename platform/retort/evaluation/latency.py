"""What one query costs: one at a time, in this process, after warm-up; the median of many.

Batches would flatter every system (weights and postings are read once for many queries); a user waits for one query.
The median and not the mean, because other work on the machine only ever adds time. One thread by default, as serving
gives each concurrent query: on a busy machine threads that wait for each other in every layer cost far more than they
give (seen on 2 cores with others at work: 52 ms with one thread, 910 ms with two).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

WARM_UP_QUERIES = 3
WARM_UP_S = 1.0
"""No new warm-up query starts after this: it is for caches and lazy set-up, which one slow query fills too."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Wall time of single queries, in milliseconds."""

    median_ms: float
    p90_ms: float
    cpu_ms: float
    """Median CPU time of this process per query: far below `median_ms` when others had the cores."""
    queries: int
    threads: int


def measure_latency(
    search: Callable[[str], object],
    texts: Sequence[str],
    *,
    threads: int,
    budget_s: float,
    least_queries: int,
    clock: Callable[[], float] = time.perf_counter,
    cpu_clock: Callable[[], float] = time.process_time,
) -> Latency:
    """Time `search(text)` for one text after another.

    Args:
        search: The whole way from a query's text to its ranked passage ids.
        texts: Queries in a mixed order; each is searched once. The last ones also serve, before, as the warm-up.
        threads: What the process was limited to; only recorded.
        budget_s: No new query starts after this many seconds...
        least_queries: ...unless fewer than this many were timed (or there are no more).
        clock, cpu_clock: Seconds, of wall and of this process's CPU time; a test gives its own.

    Raises:
        ValueError: no texts.
    """
    if not texts:
        raise ValueError("latency needs at least one query")
    began = clock()
    for text in texts[-WARM_UP_QUERIES:]:
        search(text)
        if clock() - began > WARM_UP_S:
            break
    began = clock()
    times_s: list[tuple[float, float]] = []
    for text in texts:
        start, cpu_start = clock(), cpu_clock()
        if len(times_s) >= least_queries and start - began > budget_s:
            break
        search(text)
        times_s.append((clock() - start, cpu_clock() - cpu_start))
    times_ms = np.asarray(times_s) * 1000  # [queries, 2]
    return Latency(
        median_ms=float(np.median(times_ms[:, 0])),
        p90_ms=float(np.quantile(times_ms[:, 0], 0.9)),
        cpu_ms=float(np.median(times_ms[:, 1])),
        queries=len(times_s),
        threads=threads,
    )
