"""How the cost of an index grows with its passages: measured from 10,000 to 1,000,000, modelled to a billion.

Costs are CPU-seconds, not wall time: they add up over shards and machines, and neighbours on this machine change them
little. A power law per cost is fitted on the points up to 300,000 and must predict the one at a million; the extrapolation
keeps shards at a size that was measured, so that only their number grows.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import Report, Row
from search_rows import RECALL, RealVectors, clustered_set, embeddings_of

KIND = "hnsw-sq8"
COUNTS = (10_000, 30_000, 100_000, 300_000, 1_000_000)
FITTED_TO = 300_000
COSTS = ("build_cpu_s_per_vector", "query_cpu_ms", "bytes_per_vector")
BILLION = {
    "passages": 1e9,
    "passages_per_shard": 1e6,
    "replicas": 1,
    "gpu_passages_per_s": 8000.0,  # an assumption: MiniLM of 22M parameters in bf16 on one mid-range GPU; set it to your own figure
    "gpu_hour_price": 1.0,
    "cpu_core_hour_price": 0.04,
    "memory_gib_hour_price": 0.005,
}


def measured_at(real: RealVectors, store: str, count: int) -> dict[str, float]:
    """Costs of one shard of `count` made vectors; kept, because a million takes minutes."""
    import faiss
    from reindex_cost import in_this_process

    from retort.indexing.build import IndexConfig, index
    from retort.indexing.search import ShardedIndex
    from retort.resources import limit_threads

    folder = clustered_set(real, store, count)
    kept = folder / f"growth-{KIND}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    embeddings = embeddings_of(store, folder)
    limit_threads(1)
    began, wall = time.process_time(), time.perf_counter()
    config = {"embeddings": embeddings.uri, "kind": KIND, "shards": 1, "threads": 1, "name": f"growth-{count}"}
    with in_this_process():
        made = index(
            IndexConfig.validated(
                {**config, "store": store, "seed": 1000 + COUNTS.index(count) if count in COUNTS else 1000}
            )
        )
    build, wall = time.process_time() - began, time.perf_counter() - wall
    opened = ShardedIndex.open(made)
    queries, truth = np.load(folder / "queries.npy"), np.load(folder / "truth.npy")[:, :10]
    faiss.omp_set_num_threads(1)

    def recall(width: int) -> float:
        opened.look({"efSearch": width})
        found = opened.search(queries, 10).rows.tolist()
        return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth.tolist(), strict=True)]))

    low, high = 0, 16
    while recall(high) < RECALL:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if recall(middle) >= RECALL else (middle, high)
    opened.look({"efSearch": high})
    spent = []
    for _ in range(3):
        began = time.process_time()
        for query in queries:
            opened.search(query[None, :], 10)
        spent.append((time.process_time() - began) / len(queries))
    found = {
        "count": count,
        "build_cpu_s_per_vector": build / count,
        "build_wall_s": wall,
        "query_cpu_ms": 1000 * min(spent),
        "bytes_per_vector": opened.mapped_bytes / count,
        "efSearch": high,
        "recall": recall(high),
    }
    kept.write_text(json.dumps(found))
    return found


def fitted(points: list[dict[str, float]], cost: str) -> tuple[float, float]:
    """(a, b) of cost = a * count ** b, least squares on logarithms."""
    b, a = np.polyfit(np.log([point["count"] for point in points]), np.log([point[cost] for point in points]), 1)
    return float(np.exp(a)), float(b)


def add_growth(report: Report, real: RealVectors, store: str, quick: bool) -> None:
    """Rows of the measured points, the model's error at a million, and the billion."""
    counts = (5_000, 10_000, 20_000) if quick else COUNTS
    points = [measured_at(real, store, count) for count in counts]
    for point in points:
        report.add(
            Row(f"growth_{int(point['count'])}", "CPU-seconds to build a million", point["build_cpu_s_per_vector"] * 1e6,
                note=f"{point['query_cpu_ms']:.3f} CPU-ms a query at recall@10 {point['recall']:.3f} (efSearch {point['efSearch']:.0f}), "
                f"{point['bytes_per_vector']:.0f} bytes a vector")
        )  # fmt: skip
    last = points[-1]
    basis = [point for point in points if point["count"] < last["count"]]
    models = {cost: fitted(basis, cost) for cost in COSTS}
    errors = {cost: a * last["count"] ** b / last[cost] - 1 for cost, (a, b) in models.items()}
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
