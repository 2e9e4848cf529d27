"""How the cost of an index grows with its passages: measured from 10,000 to 1,000,000, modelled to a billion.

Costs are CPU-seconds, not wall time: they add up over shards and machines, and neighbours on this machine change them
little. Every count is searched at one width, which finds more than the recall wanted at all of them.

The model: a step through a graph costs `a` where the vector lies in this core's share of the cache and `a + b` where it does
not; a query at one width takes as many steps at every count, putting a vector into the graph takes ln(count) times as many.
Fitted on the points up to 300,000 it must predict the one at a million; the extrapolation keeps shards at a size that was
measured, so that only their number grows.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hard_vectors import recall_at
from harness import Report, Row
from search_rows import RealVectors, clustered_set, embeddings_of

KIND = "hnsw-sq8"
COUNTS = (10_000, 30_000, 100_000, 300_000, 1_000_000)
WIDTH = 48
STEPS: dict[str, Callable[[float], float]] = {
    "build_cpu_s_per_vector": math.log,
    "query_cpu_ms": lambda count: 1.0,
}
BILLION = {
    "passages": 1e9,
    "passages_per_shard": 1e6,
    "replicas": 1,
    "gpu_passages_per_s": 8000.0,  # an assumption: MiniLM of 22M parameters in bf16 on one mid-range GPU; set it to your own figure
    "gpu_hour_price": 1.0,
    "cpu_core_hour_price": 0.04,
    "memory_gib_hour_price": 0.005,
}


def cache_share() -> float:
    """Bytes of the last cache that one core can count on: its size over the cores that share it."""
    folder = max(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"), key=lambda index: index.name)
    size = int((folder / "size").read_text().strip().removesuffix("K")) * 1024
    shared = (folder / "shared_cpu_list").read_text().strip()
    return size / sum(
        int(end or start) - int(start) + 1 for start, _, end in (one.partition("-") for one in shared.split(","))
    )


def measured_at(real: RealVectors, store: str, count: int) -> dict[str, float]:
    """Costs of one shard of `count` made vectors."""
    import faiss

    from retort.indexing.search import ShardedIndex

    folder = clustered_set(real, store, count)
    made, build = built(store, folder, count)
    opened = ShardedIndex.open(made)
    opened.look({"efSearch": WIDTH})
    queries, truth = np.load(folder / "queries.npy"), np.load(folder / "truth.npy")[:, :10]
    faiss.omp_set_num_threads(1)
    found = opened.search(queries, 10).rows
    spent = []
    for _ in range(5):
        began = time.process_time()
        for query in queries:
            opened.search(query[None, :], 10)
        spent.append((time.process_time() - began) / len(queries))
    return {
        "count": count,
        **{name: build[name] for name in ("build_cpu_s_per_vector", "build_wall_s")},
        "query_cpu_ms": 1000 * min(spent),
        "bytes_per_vector": opened.mapped_bytes / count,
        "recall": recall_at(found, truth),
    }


def built(store: str, folder: Path, count: int) -> tuple[Any, dict[str, float]]:
    """The index, and what building it cost; kept, because a million takes minutes."""
    from reindex_cost import in_this_process

    from retort.indexing.build import IndexConfig, index
    from retort.resources import limit_threads

    kept = folder / f"growth-{KIND}.json"
    # A seed of its own: the contest builds this kind of these vectors too, and what is there already cannot be timed.
    seed = 1000 + (COUNTS.index(count) if count in COUNTS else 0)
    config = {"kind": KIND, "shards": 1, "threads": 1, "seed": seed, "name": f"growth-{count}", "store": store}
    config["embeddings"] = embeddings_of(store, folder).uri
    limit_threads(1)
    began, wall = time.process_time(), time.perf_counter()
    with in_this_process():
        made = index(IndexConfig.validated(config))
    if not kept.exists():
        cost = (time.process_time() - began) / count
        kept.write_text(json.dumps({"build_cpu_s_per_vector": cost, "build_wall_s": time.perf_counter() - wall}))
    return made, json.loads(kept.read_text())


def share_outside(point: Mapping[str, float], cache: float) -> float:
    """Of the index's bytes the share that does not fit."""
    return 1 - min(1.0, cache / (point["bytes_per_vector"] * point["count"]))


def fitted(points: Sequence[Mapping[str, float]], cost: str, cache: float) -> tuple[float, float]:
    """(a, b) of cost = steps * (a + b * share outside the cache), by least squares of relative errors."""
    steps = np.array([STEPS[cost](point["count"]) for point in points])
    outside = np.array([share_outside(point, cache) for point in points])
    known = np.array([point[cost] for point in points])
    terms = np.stack([steps, steps * outside], axis=1) / known[:, None]  # [points, 2]
    a, b = np.linalg.lstsq(terms, np.ones(len(points)), rcond=None)[0]
    return float(a), float(b)


def predicted(model: tuple[float, float], point: Mapping[str, float], cost: str, cache: float) -> float:
    a, b = model
    return STEPS[cost](point["count"]) * (a + b * share_outside(point, cache))


def add_growth(report: Report, real: RealVectors, store: str, quick: bool) -> None:
    """Rows of the measured points, the model's error at a million, and the billion."""
    counts = (5_000, 10_000, 20_000) if quick else COUNTS
    points = [measured_at(real, store, count) for count in counts]
    for point in points:
        report.add(
            Row(f"growth_{int(point['count'])}", "CPU-seconds to build a million", point["build_cpu_s_per_vector"] * 1e6,
                note=f"{point['query_cpu_ms']:.3f} CPU-ms a query at efSearch {WIDTH}, recall@10 {point['recall']:.3f}, {point['bytes_per_vector']:.0f} bytes a vector")
        )  # fmt: skip
    last = points[-1]
    basis = [point for point in points if point["count"] < last["count"]]
    cache = cache_share()
    models = {cost: fitted(basis, cost, cache) for cost in STEPS}
    errors = {cost: predicted(model, last, cost, cache) / last[cost] - 1 for cost, model in models.items()}
    errors["bytes_per_vector"] = (
        statistics.fmean(point["bytes_per_vector"] for point in basis) / last["bytes_per_vector"] - 1
    )
    worst = max(map(abs, errors.values()))
    report.add(
        Row("model_error_1m", "share", worst, target="<= 0.15", met=None if quick else worst <= 0.15,
            note=f"the largest of: {', '.join(f'{cost} {error:+.3f}' for cost, error in errors.items())}; fitted up to {int(basis[-1]['count']):,}, predicting {int(last['count']):,}")
    )  # fmt: skip
    billion = billion_cost(last, BILLION)
    report.add(
        Row("billion_index_memory", "GiB", billion["memory_gib"],
            note=f"{billion['shards']:.0f} shards of {BILLION['passages_per_shard']:,.0f}; building {billion['build_core_hours']:.0f} core-hours; embedding "
            f"{billion['gpu_hours']:.0f} GPU-hours at {BILLION['gpu_passages_per_s']:,.0f} passages/s (assumed); {billion['query_cpu_ms']:.0f} CPU-ms a query over all shards")
    )  # fmt: skip
    report.details["growth"] = {
        "points": points,
        "models": models,
        "cache_bytes": cache,
        "errors": errors,
        "billion": billion,
        "assumptions": BILLION,
    }


def billion_cost(shard: dict[str, float], assumed: dict[str, float]) -> dict[str, Any]:
    """Cost of so many shards, each as the one measured; memory and CPU add up, and a query asks every shard."""
    shards = assumed["passages"] / assumed["passages_per_shard"]
    memory = shard["bytes_per_vector"] * assumed["passages"] * assumed["replicas"] / 2**30
    build = shard["build_cpu_s_per_vector"] * assumed["passages"] / 3600
    gpu = assumed["passages"] / assumed["gpu_passages_per_s"] / 3600
    return {
        "shards": shards,
        "memory_gib": memory,
        "build_core_hours": build,
        "gpu_hours": gpu,
        "query_cpu_ms": shard["query_cpu_ms"] * shards,
        "price_once": gpu * assumed["gpu_hour_price"] + build * assumed["cpu_core_hour_price"],
        "price_of_memory_an_hour": memory * assumed["memory_gib_hour_price"],
    }


def main() -> None:
    from harness import arguments

    from retort.store import open_store

    args = arguments("How the cost of an index grows.")
    report = Report("quick" if args.quick else "full")
    store = open_store(args.store).uri
    add_growth(report, RealVectors(store), store, args.quick)
    Path(store).mkdir(exist_ok=True)
    report.finish(args.json)


if __name__ == "__main__":
    main()
