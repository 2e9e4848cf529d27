"""One index in a process of its own: built once and kept, opened, warmed, measured. Ours, hnswlib and usearch alike.

    with SystemProcess("hnswlib", folder, {...}) as system: system.ask("rate", shape="single", threads=1)

`folder` holds vectors.npy and queries.npy (float32 unit vectors) and truth.npy (rows of the ten best of each query).
A process of its own, because the memory of one index cannot be told from another's within one process.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, cast

import harness  # sets OpenMP's waiting before anything imports torch
import numpy as np
from asking import AskedProcess

K = 10
LEAST_S = 1.0
WIDEST = 2048
HNSWLIB = {"M": 16, "ef_construction": 200}  # hnswlib's own recommendation and default


class System(Protocol):
    """What is asked of every index; `file` is where it is kept."""

    def open(self) -> None: ...
    def look(self, width: int) -> None: ...
    def search(self, queries: np.ndarray, threads: int) -> np.ndarray: ...
    def mapped_files(self) -> list[str]: ...


class Peer(System, Protocol):
    """One that is built here; ours is built by `retort index`."""

    def build(self, vectors: np.ndarray, threads: int) -> None: ...


class Hnswlib:
    def __init__(self, file: Path, options: dict[str, Any]) -> None:
        self._file, self._options = file, options

    def build(self, vectors: np.ndarray, threads: int) -> None:
        import hnswlib

        index = hnswlib.Index("ip", vectors.shape[1])
        index.init_index(len(vectors), **(HNSWLIB | self._options))
        index.add_items(vectors, num_threads=threads)
        index.save_index(str(self._file))

    def open(self) -> None:
        import hnswlib

        self._index = hnswlib.Index("ip", self._options.get("dimension", 384))
        self._index.load_index(str(self._file))

    def look(self, width: int) -> None:
        self._index.set_ef(width)

    def search(self, queries: np.ndarray, threads: int) -> np.ndarray:
        return self._index.knn_query(queries, K, num_threads=threads)[0].astype(np.int64)

    def mapped_files(self) -> list[str]:
        return []


class Usearch:
    def __init__(self, file: Path, options: dict[str, Any]) -> None:
        self._file, self._options = file, options

    def _empty(self) -> Any:
        from usearch.index import Index

        return Index(ndim=384, metric="ip", dtype=self._options["dtype"])

    def build(self, vectors: np.ndarray, threads: int) -> None:
        index = self._empty()
        index.add(np.arange(len(vectors)), vectors, threads=threads)
        index.save(str(self._file))

    def open(self) -> None:
        self._index = self._empty()
        self._index.load(str(self._file))

    def look(self, width: int) -> None:
        self._index.expansion_search = width

    def search(self, queries: np.ndarray, threads: int) -> np.ndarray:
        return self._index.search(queries, K, threads=threads).keys.reshape(len(queries), K).astype(np.int64)

    def mapped_files(self) -> list[str]:
        return []


class Retort:
    """An index artefact, named by its URI; built by the benchmark through `retort index`."""

    def __init__(self, file: Path, options: dict[str, Any]) -> None:
        self._uri, self._refine, self._by_threads = options["uri"], options.get("refine", 0), {}
        self._settings: dict[str, int] = {}

    def open(self) -> None:
        self._with(1)

    def _with(self, threads: int) -> Any:
        from retort.indexing.search import ShardedIndex
        from retort.store import open_store

        if threads not in self._by_threads:
            kind, key = self._uri.rstrip("/").split("/")[-2:]
            store = open_store(self._uri.rsplit(f"/{kind}/", 1)[0])
            self._by_threads[threads] = ShardedIndex.open(store.get(key, kind), threads=threads)
            if self._settings:
                self._by_threads[threads].look(self._settings)
        return self._by_threads[threads]

    def look(self, width: int) -> None:
        name = next((n for n in ("nprobe", "efSearch") if n in self._with(1).description["search"]), "efSearch")
        self._settings = {name: width} | ({"refine": self._refine} if self._refine else {})
        for index in self._by_threads.values():
            index.look(self._settings)

    def search(self, queries: np.ndarray, threads: int) -> np.ndarray:
        return self._with(threads).search(queries, K).rows

    def mapped_files(self) -> list[str]:
        return [".faiss", ".npy", ".arrow"]


SYSTEMS: dict[str, Any] = {"hnswlib": Hnswlib, "usearch": Usearch, "retort": Retort}


class Measured:
    """The child's side: a system, its queries, and what is asked about it."""

    def __init__(self, name: str, folder: Path, options: dict[str, Any]) -> None:
        label = "-".join([name, *(f"{key}{value}" for key, value in sorted(options.items()) if key != "uri")])
        self._file, self._folder = folder / f"{label}.index", folder
        self._system: System = SYSTEMS[name](self._file, options)
        self._queries = np.load(folder / "queries.npy")
        self._truth = np.load(folder / "truth.npy")[:, :K]
        self._before = 0

    def build(self, threads: int) -> dict[str, Any]:
        """Build a peer unless its file is there; seconds are kept beside it."""
        peer = cast("Peer", self._system)
        noted = self._file.with_suffix(".json")
        if not noted.exists():
            vectors = np.load(self._folder / "vectors.npy")
            began, cpu = time.perf_counter(), time.process_time()
            peer.build(vectors, threads)
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
            size = self._file.stat().st_size
            noted.write_text(json.dumps({"seconds": seconds, "cpu_s": cpu, "threads": threads, "bytes": size}))
        return json.loads(noted.read_text())

    def open(self) -> dict[str, Any]:
        """Open; seconds, and the first answer's."""
        self._before = resident_bytes()
        began = time.perf_counter()
        self._system.open()
        opened = time.perf_counter() - began
        self._system.search(self._queries[:1], 1)
        return {"open_s": opened, "first_answer_s": time.perf_counter() - began}

    def tune(self, recall: float) -> dict[str, Any]:
        """The least width that reaches the recall: doubled, then bisected."""
        curve: dict[int, float] = {}

        def reached(width: int) -> float:
            self._system.look(width)
            found = self._system.search(self._queries, 2)
            hits = [len(set(a) & set(b)) / K for a, b in zip(found.tolist(), self._truth.tolist(), strict=True)]
            curve[width] = float(np.mean(hits))
            return curve[width]

        low, high = 0, 16
        while reached(high) < recall and high < WIDEST:
            low, high = high, 2 * high
        while curve[high] >= recall and high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if reached(middle) >= recall else (middle, high)
        self._system.look(high)
        return {"width": high, "recall": curve[high], "curve": dict(sorted(curve.items()))}

    def rate(self, shape: str, threads: int) -> dict[str, Any]:
        """Queries per second: one query a call (`single`; with threads, that many callers), or all in one call (`batch`)."""
        queries = self._queries

        def one_by_one(own: np.ndarray) -> None:
            for query in own:
                self._system.search(query[None, :], 1)

        self._system.search(
            queries, threads if shape == "batch" else 1
        )  # what opens or warms at the first call is not timed
        rounds, began = 0, time.perf_counter()
        # All queries once are over in a tenth of a second: too short for a noisy machine.
        while time.perf_counter() - began < LEAST_S:
            rounds += 1
            if shape == "batch":
                self._system.search(queries, threads)
            elif threads == 1:
                one_by_one(queries)
            else:
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(one_by_one, np.array_split(queries, threads)))
        return {"per_s": rounds * len(queries) / (time.perf_counter() - began)}

    def look(self, width: int) -> dict[str, Any]:
        """Search this wide from now on."""
        self._system.look(width)
        return {}

    def memory(self) -> dict[str, Any]:
        """Growth of resident bytes since before opening, and what is mapped of files but was never touched."""
        untouched = 0
        ends = tuple(self._system.mapped_files())
        if ends:
            size = 0
            for line in Path("/proc/self/smaps").read_text().splitlines():
                fields = line.split()
                if "-" in fields[0] and len(fields) >= 5:
                    mapped = len(fields) > 5 and fields[-1].endswith(ends)
                elif fields[0] == "Size:":
                    size = int(fields[1]) * 1024 if mapped else 0
                elif fields[0] == "Rss:" and size:
                    untouched += size - int(fields[1]) * 1024
        return {"resident": resident_bytes() - self._before, "untouched": untouched}


def resident_bytes() -> int:
    """Proportional set size of this process: pages shared with others count by their share."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no Pss in /proc/self/smaps_rollup")


class SystemProcess(AskedProcess):
    """A system on a folder's vectors; it is asked for what `Measured` can tell."""

    def __init__(self, name: str, folder: Path, options: dict[str, Any]) -> None:
        super().__init__([sys.executable, __file__, name, str(folder), json.dumps(options)])


def main() -> None:
    from retort.resources import limit_threads

    limit_threads(1)
    name, folder, options = sys.argv[1:4]
    if name == "retort":
        import retort.indexing.search  # its memory is not the index's  # noqa: F401
    else:
        __import__(name)
    measured = Measured(name, Path(folder), json.loads(options))
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(getattr(measured, asked.pop("do"))(**asked)), flush=True)


if __name__ == "__main__":
    assert harness.ROOT
    main()
