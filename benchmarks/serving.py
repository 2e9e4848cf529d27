"""The endpoint against a bare loop and against FastAPI + uvicorn, under load, overload, and change.

MiniLM over 33k Debian descriptions in an HNSW index, short queries, k 10, no caches; everything, generators too, on the same
cores. Closed loop: wrk. Set rate: autocannon. Every round starts each system anew and in turn.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from harness import ROOT, SHARED, Report, Row, arguments, console, need, ratio_row
from serving_changes import changes
from serving_load import Load, closed_loop, open_loop, write_bodies

from retort.store import Artefact

CLIENTS = (1, 8, 32, 64)
K = 10
THREADS = len(os.sched_getaffinity(0))


def world(store_uri: str) -> tuple[Artefact, list[str]]:
    """The index, made once and kept in the store, and the queries."""
    from retort.corpus.ingest import IngestConfig, ingest
    from retort.indexing.build import IndexConfig, index
    from retort.indexing.embed import EmbedConfig, embed

    source = str(need(SHARED / "debian"))
    licences = ["various free licences of Debian packages"]
    made = ingest(IngestConfig(source=source, name="debian", licences=licences, store=store_uri))
    embeddings = embed(EmbedConfig(corpus=made["corpus"].uri, encoder="minilm", name="debian-minilm", store=store_uri))
    found = index(IndexConfig(embeddings=embeddings.uri, kind="hnsw", name="serving-hnsw", store=store_uri))
    queries = made["test"].part("queries.parquet", columns=["text"]).column("text").to_pylist()
    return found, [text for text in queries if text.isprintable()][:2000]


@contextmanager
def server(command: list[str], port: int) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """A server in a process of its own, ready; and the seconds that it took."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        with httpx.Client(timeout=2, trust_env=False) as http:
            while True:
                try:
                    if http.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                        break
                except httpx.HTTPError:
                    pass
                if process.poll() is not None or time.monotonic() > began + 600:
                    raise SystemExit(f"{' '.join(command)} did not come up")
                time.sleep(0.05)
        yield process, time.monotonic() - began
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        time.sleep(1)


def ours(index: Artefact, port: int, **options: Any) -> list[str]:
    """The command of our endpoint, caches off."""
    settings = {"store": index.store_area().uri, "port": port, "threads": THREADS, "cache-answers": 0, **options}
    flags = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return [sys.executable, "-m", "retort.cli", "serve", index.uri, *flags]


def side(name: str, *given: Any) -> list[str]:
    return [sys.executable, str(ROOT / "benchmarks" / "serving_sides.py"), name, *map(str, given)]


def best_of(url: str, seconds: float, bodies: Path) -> dict[int, Load]:
    closed_loop(url, 4, min(2.0, seconds), bodies)  # warm
    return {clients: closed_loop(url, clients, seconds, bodies) for clients in CLIENTS}


def replica_memory(parent: int) -> list[tuple[float, float]]:
    """(RSS, PSS) in MiB of each replica; PSS shares what several map."""
    found = []
    for process in psutil.Process(parent).children(recursive=True):
        if "ServeReplica:retort:search" in " ".join(process.cmdline()):
            full = process.memory_full_info()
            found.append((full.rss / 2**20, full.pss / 2**20))
    return found


def rounds(report: Report, index: Artefact, bodies: Path, repeats: int, seconds: float) -> float:
    """Throughput and latency of the three systems, round by round; returns our capacity in queries a second."""
    from retort.serving.front import free_port

    rates: dict[str, list[float]] = {"ours": [], "fastapi": [], "in_process": []}
    added: list[float] = []
    ready: list[float] = []
    memory: list[tuple[float, float]] = []
    grids: list[dict[str, Any]] = []
    store = index.store_area().uri
    for number in range(repeats):
        grid: dict[str, Any] = {}

        def run_ours(grid: dict[str, Any] = grid) -> None:
            port = free_port()
            with server(ours(index, port), port) as (process, seconds_to_ready):
                found = best_of(f"http://127.0.0.1:{port}/v1/search", seconds, bodies)
                ready.append(seconds_to_ready)
                memory.extend(replica_memory(process.pid))
            grid["ours"] = {clients: vars(load) for clients, load in found.items()}

        def run_peer(grid: dict[str, Any] = grid) -> None:
            port = free_port()
            with server(side("peer", store, index.key, port, THREADS), port):
                found = best_of(f"http://127.0.0.1:{port}/v1/search", seconds, bodies)
            grid["fastapi"] = {clients: vars(load) for clients, load in found.items()}

        def run_bare(grid: dict[str, Any] = grid) -> None:
            command = side("bare", store, index.key, bodies, seconds, THREADS)
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            grid["in_process"] = json.loads(next(x for x in done.stdout.splitlines() if x.startswith("JSON "))[5:])

        order: list[Callable[[], None]] = [run_ours, run_bare, run_peer]
        for run in order if number % 2 == 0 else reversed(order):
            run()
        for name in ("ours", "fastapi"):
            rates[name].append(max(load["rate"] for load in grid[name].values()))
        rates["in_process"].append(max(value for name, value in grid["in_process"].items() if name.startswith("rate")))
        added.append(grid["ours"][1]["p50_ms"] - grid["in_process"]["p50_ms"])
        grids.append(grid)
        console.print(
            f"  round {number + 1}: { ({name: round(values[-1], 1) for name, values in rates.items()}) }, added {added[-1]:.2f} ms"
        )
    report.details["rounds"] = grids
    middle = statistics.median(added)
    bare_ms = statistics.median(grid["in_process"]["p50_ms"] for grid in grids)
    report.add(
        Row("p50_added_ms", "ms", middle, bare_ms, "in-process p50", None, min(added), max(added), "<= 2", middle <= 2)
    )
    report.add(ratio_row("throughput_vs_fastapi", "queries/s", rates, "fastapi", at_least=2.5))
    report.add(ratio_row("throughput_vs_in_process", "queries/s", rates, "in_process", at_least=0.75))
    report.add(Row("start_to_ready_s", "s", statistics.median(ready), low=min(ready), high=max(ready)))
    report.add(Row("memory_per_replica_mib", "MiB RSS", statistics.median(rss for rss, _ in memory)))
    return statistics.median(rates["ours"])


def under_rates(report: Report, index: Artefact, bodies: Path, seconds: float) -> None:
    """p99 at 70 % of capacity, and what is left at two and five times as much as it can do."""
    from retort.serving.front import free_port

    port = free_port()
    url = f"http://127.0.0.1:{port}/v1/search"
    with server(ours(index, port, **{"max-queued-queries": 128}), port) as (process, _):
        capacity = max(load.rate for load in best_of(url, seconds, bodies).values())
        report.details["capacity"] = capacity
        calm = open_loop(url, 0.7 * capacity, 2 * seconds, bodies)
        share = calm.p99_ms / calm.p50_ms
        note = f"p50 {calm.p50_ms:g} ms, p99 {calm.p99_ms:g} ms at {0.7 * capacity:.0f}/s"
        report.add(Row("p99_over_p50_at_70", "ratio", share, target="<= 3", met=share <= 3, note=note))
        for times, least in ((2, 0.8), (5, 0.5)):
            before = sum(rss for rss, _ in replica_memory(process.pid))
            load = open_loop(url, times * capacity, 2 * seconds, bodies, connections=1000)
            after = sum(rss for rss, _ in replica_memory(process.pid))
            goodput = load.rate / capacity
            note = (
                f"{load.rate:.0f}/s of {capacity:.0f}/s at {times * capacity:.0f}/s asked; {load.refused} refused with 503, "
                f"{load.bad} other failures, p50 of all answers {load.p50_ms:g} ms, memory {before:.0f} -> {after:.0f} MiB"
            )
            row = Row(
                f"overload_goodput_{times}x", "share", goodput, target=f">= {least}", met=goodput >= least, note=note
            )
            report.add(row)
            report.details[f"overload_{times}x"] = vars(load)


def main() -> None:
    given = arguments(__doc__ or "")
    repeats, seconds = (1, 3.0) if given.quick else (3, 6.0)
    report = Report("quick" if given.quick else "full")
    index, queries = world(given.store)
    with tempfile.TemporaryDirectory(prefix="retort-serving-") as folder:
        bodies = write_bodies(queries, Path(folder), K)
        rounds(report, index, bodies, repeats, seconds)
        under_rates(report, index, bodies, seconds)
        changes(report, index, bodies, 4.0 if given.quick else 8.0)
    report.finish(given.json)


if __name__ == "__main__":
    main()
