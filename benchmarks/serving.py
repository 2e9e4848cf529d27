"""The endpoint against a bare loop and against FastAPI + uvicorn, under load, overload, and change.

The FastAPI server is what a user would write, with sentence-transformers; and once more with our encoder in it.

MiniLM over 33k Debian descriptions in an HNSW index, short queries, k 10, no caches; everything, generators too, on the same
cores. No side marks words; what marking them costs ours is told in rows of its own. Closed loop: wrk. Set rate: wrk2. Every round
starts each system anew and in turn.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
from asking import AskedProcess
from harness import ROOT, Report, Row, Stages, arguments, console, ratio_row
from real_data import debian, debian_vectors
from serving_autoscaling import autoscaling
from serving_changes import changes
from serving_load import Load, closed_loop, need_generators, open_loop, write_bodies

from retort.serving.front import free_port
from retort.store import Artefact

CLIENTS = (1, 8, 32, 64)
K = 10
CHECKED = 100
PAUSE_S = 0.003
THREADS = len(os.sched_getaffinity(0))


def world(store_uri: str) -> tuple[Artefact, list[str]]:
    """The index, made once and kept in the store, and the queries."""
    from retort.indexing.build import IndexConfig, index

    embeddings = debian_vectors(store_uri)
    found = index(IndexConfig(embeddings=embeddings.uri, kind="hnsw", name="serving-hnsw", store=store_uri))
    queries = debian(store_uri)["test"].part("queries.parquet", columns=["text"]).column("text").to_pylist()
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
    """The command of our endpoint: a replica of one thread for each core, caches off."""
    settings = {
        "store": index.store_area().uri,
        "port": port,
        "replicas": THREADS,
        "threads": 1,
        "cache-answers": 0,
        **options,
    }
    flags = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return [sys.executable, "-m", "retort.cli", "serve", index.uri, *flags]


def side(name: str, *given: Any) -> list[str]:
    return [sys.executable, str(ROOT / "benchmarks" / "serving_sides.py"), name, *map(str, given)]


def replica_memory(parent: int) -> list[tuple[float, float]]:
    """(RSS, PSS) in MiB of each replica; PSS shares what several map."""
    found = []
    for process in psutil.Process(parent).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a helper of HAProxy's lives a second
            if "ServeReplica:retort:search" in " ".join(process.cmdline()):
                full = process.memory_full_info()
                found.append((full.rss / 2**20, full.pss / 2**20))
    return found


class Bare(AskedProcess):
    """The bare loop in a process of its own."""

    def __init__(self, index: Artefact, bodies: Path, threads: int) -> None:
        super().__init__(side("bare", index.store_area().uri, index.key, bodies, threads))

    def run(self, batch: int, seconds: float, pause_s: float = 0.0) -> dict[str, float]:
        """Encode and search for so long: queries a second, and the milliseconds' median of a batch."""
        return self.ask("run", batch=batch, seconds=seconds, pause_s=pause_s)


def best_of(url: str, seconds: float, bodies: Path) -> dict[int, Load]:
    return {clients: closed_loop(url, clients, seconds, bodies) for clients in CLIENTS}


def hits_of(url: str, bodies: Path) -> list[str]:
    """The first hit of some queries."""
    with httpx.Client(timeout=20, trust_env=False) as http:
        lines = bodies.read_text("utf-8").splitlines()[:CHECKED]
        found = [http.post(url, content=line, headers={"content-type": "application/json"}).json() for line in lines]
    return [answer["hits"][0]["passage_id"] for answer in found]


def check_equal(first_hits: dict[str, list[str]]) -> None:
    """All sides find the same; rounding may make one of twenty differ."""
    for name, found in first_hits.items():
        same = sum(one == other for one, other in zip(found, first_hits["ours"], strict=True))
        assert same >= 0.95 * CHECKED, f"{name} and ours agree in {same} of {CHECKED} first hits"


def rounds(report: Report, index: Artefact, bodies: Path, marked: Path, repeats: int, seconds: float) -> None:
    """Throughput and latency of the three systems, each started anew in every round, in turn."""
    rates: dict[str, list[float]] = {"ours": [], "fastapi": [], "fastapi_our_encoder": [], "in_process": []}
    added: list[float] = []
    paused: list[float] = []
    marking: list[float] = []
    share_marked: list[float] = []
    alone: list[float] = []
    ready: list[float] = []
    memory: list[tuple[float, float]] = []
    grids: list[dict[str, Any]] = []
    store = index.store_area().uri
    for number in range(repeats):
        grid: dict[str, Any] = {"first_hits": {}}

        def run_ours(grid: dict[str, Any] = grid) -> None:
            port = free_port()
            url = f"http://127.0.0.1:{port}/v1/search"
            with server(ours(index, port), port) as (process, seconds_to_ready):
                closed_loop(url, 4, 3.0, bodies)  # warm
                found = best_of(url, seconds, bodies)
                grid["first_hits"]["ours"] = hits_of(url, bodies)
                best = max(found, key=lambda clients: found[clients].rate)
                share_marked.append(closed_loop(url, best, seconds, marked).rate / found[best].rate)
                ready.append(seconds_to_ready)
                memory.extend(replica_memory(process.pid))
            grid["ours"] = {clients: vars(load) for clients, load in found.items()}

        def run_alone(grid: dict[str, Any] = grid) -> None:
            port = free_port()
            url = f"http://127.0.0.1:{port}/v1/search"
            with server(ours(index, port, replicas=1), port), Bare(index, bodies, 1) as bare:
                closed_loop(url, 1, 3.0, bodies)
                bare.run(1, 2.0)
                # Turn and turn about: what the machine does otherwise in these seconds, it does to all.
                grid["one_client_p50_ms"] = [
                    (
                        closed_loop(url, 1, seconds / 2, bodies).p50_ms,
                        bare.run(1, seconds / 2)["p50_ms"],
                        bare.run(1, seconds / 2, PAUSE_S)["p50_ms"],
                        closed_loop(url, 1, seconds / 2, marked).p50_ms,
                    )
                    for _ in range(5)
                ]

        def run_peer(name: str, whose: str, grid: dict[str, Any] = grid) -> None:
            port = free_port()
            with server(side("peer", store, index.key, port, THREADS, whose), port):
                url = f"http://127.0.0.1:{port}/v1/search"
                closed_loop(url, 4, 3.0, bodies)
                found = best_of(url, seconds, bodies)
                grid["first_hits"][name] = hits_of(url, bodies)
            grid[name] = {clients: vars(load) for clients, load in found.items()}

        def run_bare(grid: dict[str, Any] = grid) -> None:
            with Bare(index, bodies, THREADS) as bare:
                bare.run(4, 3.0)
                grid["in_process"] = {batch: bare.run(batch, seconds) for batch in CLIENTS}

        peers = [partial(run_peer, "fastapi", "theirs"), partial(run_peer, "fastapi_our_encoder", "ours")]
        order: list[Callable[[], None]] = [run_ours, run_bare, *peers, run_alone]
        for run in order if number % 2 == 0 else reversed(order):
            run()
        check_equal(grid.pop("first_hits"))
        for name, values in rates.items():
            values.append(max(load["rate"] for load in grid[name].values()))
        turns = grid["one_client_p50_ms"]
        added.append(statistics.median(through - bare for through, bare, _, _ in turns))
        paused.append(statistics.median(through - bare for through, _, bare, _ in turns))
        alone.append(statistics.median(bare for _, bare, _, _ in turns))
        marking.append(statistics.median(with_words - through for through, _, _, with_words in turns))
        grids.append(grid)
        best = {name: round(values[-1], 1) for name, values in rates.items()}
        console.print(f"  round {number + 1}: {best}, added {added[-1]:.2f} ms to {alone[-1]:.2f} ms")
    report.details["rounds"] = grids
    middle, limit = statistics.median(added), statistics.median(alone)
    row = Row("p50_added_ms", "ms", middle, limit, "in-process p50", None, min(added), max(added), "<= 2", middle <= 2)
    report.add(row)
    note = f"the bare loop waits {PAUSE_S * 1000:g} ms between queries, so that caches and cores cool as they do while HTTP is spoken"
    report.add(
        Row("p50_added_to_paused_ms", "ms", statistics.median(paused), low=min(paused), high=max(paused), note=note)
    )
    report.add(Row("p50_marking_words_ms", "ms", statistics.median(marking), low=min(marking), high=max(marking)))
    report.add(ratio_row("throughput_vs_fastapi", "queries/s", rates, "fastapi", at_least=2.5))
    report.add(ratio_row("throughput_vs_fastapi_our_encoder", "queries/s", rates, "fastapi_our_encoder", at_least=None))
    report.add(ratio_row("throughput_vs_in_process", "queries/s", rates, "in_process", at_least=0.75))
    note = "of the queries/s with snippets and marked words left out, at the best number of clients"
    report.add(
        Row("throughput_marking_words", "share", statistics.median(share_marked), low=min(share_marked), high=max(share_marked), note=note)
    )  # fmt: skip
    report.add(Row("start_to_ready_s", "s", statistics.median(ready), low=min(ready), high=max(ready)))
    note = f"proportional (PSS), the {THREADS} replicas share the mapped index; resident {statistics.median(rss for rss, _ in memory):.0f} MiB"
    report.add(Row("memory_per_replica_mib", "MiB", statistics.median(pss for _, pss in memory), note=note))


def under_rates(report: Report, index: Artefact, bodies: Path, seconds: float) -> None:
    """p99 at 70 % of capacity, and what is left at two and five times as much as it can do."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1/search"
    limits = {"max-queued-queries": 128, "max-ongoing-requests": 128}
    with server(ours(index, port, **limits), port) as (process, _):
        closed_loop(url, 4, 3.0, bodies)
        capacity = max(load.rate for load in best_of(url, seconds, bodies).values())
        report.details["capacity"] = capacity
        calm = open_loop(url, 0.7 * capacity, 4 * seconds, bodies, connections=64)
        report.details["calm_70"] = vars(calm)
        share = calm.p99_ms / calm.p50_ms
        note = f"p50 {calm.p50_ms:g} ms, p99 {calm.p99_ms:g} ms at {0.7 * capacity:.0f}/s"
        report.add(Row("p99_over_p50_at_70", "ratio", share, target="<= 3", met=share <= 3, note=note))
        for times, least in ((2, 0.8), (5, 0.5)):
            before = sum(rss for rss, _ in replica_memory(process.pid))
            load = open_loop(url, times * capacity, 4 * seconds, bodies, connections=1000)
            after = sum(rss for rss, _ in replica_memory(process.pid))
            goodput = load.rate / capacity
            note = (
                f"{load.rate:.0f}/s of {capacity:.0f}/s at {times * capacity:.0f}/s asked; {load.refused} refused with 503, "
                f"{load.bad} other failures, memory of both replicas {before:.0f} -> {after:.0f} MiB"
            )
            row = Row(
                f"overload_goodput_{times}x", "share", goodput, target=f">= {least}", met=goodput >= least, note=note
            )
            report.add(row)
            report.details[f"overload_{times}x"] = vars(load)


def main() -> None:
    given = arguments(__doc__ or "", Stages.options)
    need_generators()
    repeats, seconds = (1, 3.0) if given.quick else (3, 6.0)
    stages = Stages("serving", given)
    index, queries = world(given.store)
    with tempfile.TemporaryDirectory(prefix="retort-serving-") as folder:
        bodies, marked = (write_bodies(queries, Path(folder), K, highlight=words) for words in (False, True))
        stages.run("rounds", lambda report: rounds(report, index, bodies, marked, repeats, seconds))
        stages.run("rates", lambda report: under_rates(report, index, bodies, seconds))
        stages.run("changes", lambda report: changes(report, index, bodies, 4.0 if given.quick else 8.0))
        if not given.quick:  # taking replicas away alone takes minutes
            stages.run("autoscaling", lambda report: autoscaling(report, index, bodies))
    stages.report.finish(given.json)


if __name__ == "__main__":
    main()
