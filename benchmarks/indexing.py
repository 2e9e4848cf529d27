"""Indexing beside its peers: search, memory, building, embedding, growth, and what a billion passages would cost.

    python benchmarks/indexing.py [--quick] [--json OUT] [--store FOLDER] [--only STAGE ...] [--again STAGE ...]
        [--also N ...]

Stages: hardness, debian, growth, embedding, ray_data, reindex, clustered-N of --also, clustered. What a stage found is kept in
--store, so a run that was interrupted goes on; `--again` measures a stage anew. The clustered set holds 1,000,000 vectors
(20,000 with --quick); its graphs are built once and kept as well.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from embedding_rows import add_embedding, add_ray_data
from growth_rows import add_growth
from harness import Report, Stages, arguments, console
from search_rows import Contest, RealVectors, add_hardness, clustered_set, real_set

from retort.resources import available_cores, limit_threads
from retort.store import open_store

OURS = {"ours": "hnsw-sq8", "small": "hnsw-sq6", "ivf-pq": "ivf-pq"}
USEARCH = {f"usearch-{dtype}": ("usearch", {"dtype": dtype}) for dtype in ("bf16", "i8", "f32")}
SMALL_PEERS = {f"hnswlib-M{m}": ("hnswlib", {"M": m}) for m in (16, 32)} | USEARCH
# At a million: hnswlib as its authors recommend it; usearch's two fast types (its f32 was the slowest of all at 100,000).
LARGE_PEERS = {
    "hnswlib-M16": ("hnswlib", {}),
    "usearch-bf16": USEARCH["usearch-bf16"],
    "usearch-i8": USEARCH["usearch-i8"],
}


def main() -> None:
    args = arguments("Indexing: search, memory, building, embedding, growth, cost.", _options)
    limit_threads(available_cores())
    store, quick = open_store(args.store).uri, args.quick
    stages = Stages("indexing", args)
    repeats = 3 if quick else 5
    real: list[RealVectors] = []

    def data() -> RealVectors:
        if not real:
            real.append(RealVectors(store))
        return real[0]

    def contest(report: Report, folder: Path, peers: dict[str, Any], prefix: str) -> None:
        held = Contest(store, folder, OURS, peers)
        try:
            held.add_rows(report, prefix, repeats)
        finally:
            held.close()

    count, peers = (20_000, SMALL_PEERS) if quick else (1_000_000, LARGE_PEERS)
    stages.run("hardness", lambda report: add_hardness(report, data(), store, count))
    stages.run("debian", lambda report: contest(report, real_set(data(), store), SMALL_PEERS, "debian_"))
    stages.run("growth", lambda report: add_growth(report, data(), store, quick))
    stages.run("embedding", lambda report: add_embedding(report, data(), quick))
    stages.run("ray_data", lambda report: add_ray_data(report, data(), store, quick))
    stages.run("reindex", lambda report: _add_reindex(report, store, quick))
    for also in args.also:
        stages.run(
            f"clustered-{also}",
            lambda report, also=also: contest(report, clustered_set(data(), store, also), LARGE_PEERS, f"at_{also}_"),
        )
    stages.run("clustered", lambda report: contest(report, clustered_set(data(), store, count), peers, ""))
    stages.report.finish(args.json)


def _options(parser: ArgumentParser) -> None:
    Stages.options(parser)
    parser.add_argument(
        "--also", nargs="+", type=int, default=[], metavar="N", help="clustered sets of other sizes too"
    )


def _add_reindex(report: Report, store: str, quick: bool) -> None:
    from reindex_cost import partial_reindex_cost

    row, details = partial_reindex_cost(store, quick, say=console.print)
    report.add(row)
    report.details["partial_reindex"] = details


if __name__ == "__main__":
    main()
