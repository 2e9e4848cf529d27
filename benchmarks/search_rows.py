"""Search beside hnswlib and usearch: queries per second and resident bytes at the same recall, build and open times.

Every system searches the same vectors in a process of its own, at its own smallest setting that reaches recall@10 of 0.95
against exact search. They take turns; each turn is answered by one process while the others sleep.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hard_vectors import SPREAD, VectorModel, exact_rows, hardness
from harness import Row, console, interleaved, ratio_row
from search_systems import SystemProcess

RECALL = 0.95
QUERIES = 2000
SHAPES = (("single", 1), ("single", 2), ("batch", 1), ("batch", 2))
SUFFIX = {("single", 1): "", ("single", 2): "_two_threads", ("batch", 1): "_batch", ("batch", 2): "_batch_two_threads"}
SEED = 13


class RealVectors:
    """Debian's package descriptions and test queries, encoded with MiniLM."""

    def __init__(self, store: str) -> None:
        from real_data import debian, debian_vectors

        from retort.corpus.queries import QuerySet
        from retort.indexing.vectors import VectorStore
        from retort.models.dual_encoder import DualEncoder

        self.made = debian(store)
        self.embeddings = debian_vectors(store)
        self.vectors = VectorStore.open(self.embeddings).rows(slice(None))
        kept = Path(store) / "search" / f"queries-{self.embeddings.digest[:16]}.npy"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            encoder = DualEncoder.load(self.embeddings.input("encoder").local(), precision="fp32")
            np.save(kept, encoder.encode(QuerySet.open(self.made["test"]).texts, side="query"))
        self.queries: np.ndarray = np.load(kept)


def real_set(real: RealVectors, store: str) -> Path:
    """The folder of the real set: all passages, 2,000 test queries."""
    return _kept(Path(store) / "search" / "debian", lambda: (real.vectors, real.queries[:QUERIES]))


def clustered_set(real: RealVectors, store: str, count: int) -> Path:
    """The folder of a made set of `count` vectors, and 2,000 queries drawn with them."""

    def draw() -> tuple[np.ndarray, np.ndarray]:
        made = VectorModel.fit(real.vectors).draw(count + QUERIES, SEED)
        return made[:count], made[count:]

    return _kept(Path(store) / "search" / f"clustered-{count}-{SPREAD:g}", draw)


def _kept(folder: Path, make: Callable[[], tuple[np.ndarray, np.ndarray]]) -> Path:
    if not (folder / "truth.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        vectors, queries = make()
        np.save(folder / "vectors.npy", vectors)
        np.save(folder / "queries.npy", queries)
        np.save(folder / "truth.npy", exact_rows(vectors, queries, 100)[1])
    return folder


def add_hardness(report: Any, real: RealVectors, store: str, count: int) -> None:
    """The made set beside the real one: recall of one graph at equal count, intrinsic dimension at the count that is searched."""
    made = VectorModel.fit(real.vectors).draw(len(real.vectors) + 500, SEED + 1)
    large = clustered_set(real, store, count)
    vectors, queries = (np.load(large / name) for name in ("vectors.npy", "queries.npy"))
    details = {
        "real": hardness(real.vectors, real.queries[:500]),
        "made": hardness(np.ascontiguousarray(made[500:]), made[:500]),
        "searched": hardness(vectors, queries[:500], graph=False),
    }
    report.details["hardness"] = details
    at = "recall@10 at ef 64"
    ratio = (1 - details["made"][at]) / (1 - details["real"][at])

    def facts(name: str) -> str:
        told = details[name]
        return f"intrinsic dimension {told['local_intrinsic_dimension']}, relative contrast {told['relative_contrast']}"

    report.add(
        Row("made_set_hardness", "share missed by one HNSW at ef 64", 1 - details["made"][at], 1 - details["real"][at], "real vectors",
            ratio, target=">= 1 (as hard)", met=ratio >= 1, note=f"at {len(real.vectors):,} vectors each; {facts('made')} against {facts('real')}")
    )  # fmt: skip
    dimensions = [details[name]["local_intrinsic_dimension"] for name in ("searched", "real")]
    ratio = dimensions[0] / dimensions[1]
    report.add(
        Row("searched_set_dimension", "local intrinsic dimension", dimensions[0], dimensions[1], "real vectors", ratio,
            target=">= 1 (as hard)", met=ratio >= 1, note=f"{count:,} made against {len(real.vectors):,} real: {facts('searched')} against {facts('real')}")
    )  # fmt: skip


def embeddings_of(store: str, folder: Path) -> Any:
    """The vectors of a set as an embeddings artefact, which `retort index` reads."""
    import pyarrow as pa

    from retort.store import open_store
    from retort.store.schemas import embedding_schema, part_name

    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    draft = open_store(store).draft(
        "embeddings", folder.name, step="benchmark", config={"set": folder.name, "seed": SEED}
    )
    if draft.published:
        return draft.published
    dimension = vectors.shape[1]
    with draft:
        for number, start in enumerate(range(0, len(vectors), 50_000)):
            half = vectors[start : start + 50_000].astype(np.float16)
            ids = pa.array([f"p{row:08d}" for row in range(start, start + len(half))])
            column = pa.FixedSizeListArray.from_arrays(pa.array(half.reshape(-1)), dimension)
            columns = [ids, column, pa.array(["0" * 16] * len(half))]
            draft.write_table(part_name(number), pa.Table.from_arrays(columns, schema=embedding_schema(dimension)))
        facts = {"count": len(vectors), "dimension": dimension, "similarity": "cosine", "passage_space": "b" * 64}
        return draft.publish(rows=len(vectors), metrics=facts)


def built(store: str, folder: Path, kind: str, threads: int = 2) -> tuple[Any, dict[str, float]]:
    """The index of this kind, one shard, and its seconds; a build that was timed once is not timed again."""
    import json

    from reindex_cost import in_this_process

    from retort.indexing.build import IndexConfig, index

    name = f"{folder.name}-{kind}-{threads}".replace(",", ".").lower()
    noted = folder / f"built-{name}.json"
    config = {
        "embeddings": embeddings_of(store, folder).uri,
        "kind": kind,
        "shards": 1,
        "threads": threads,
        "name": name,
    }
    began, cpu = time.perf_counter(), time.process_time()
    with in_this_process():
        made = index(IndexConfig.validated({**config, "store": store}))
    if not noted.exists():
        noted.write_text(
            json.dumps({"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu, "threads": threads})
        )
    return made, json.loads(noted.read_text())


class Contest:
    """All systems on one set: built, opened, tuned, then measured in turn."""

    def __init__(
        self, store: str, folder: Path, ours: dict[str, str], peers: dict[str, tuple[str, dict[str, Any]]]
    ) -> None:
        """`ours`: label -> kind; `peers`: label -> (system, options)."""
        self.folder, self.builds, self.opened, self.tuned, self.memory = folder, {}, {}, {}, {}
        self.processes: dict[str, SystemProcess] = {}
        self.count = len(np.load(folder / "vectors.npy", mmap_mode="r"))
        for label, kind in ours.items():
            made, self.builds[label] = built(store, folder, kind)
            settings = made.json("index.json")["search"]
            options = {"uri": made.uri, "refine": settings.get("refine", 0)}
            self._start(label, "retort", options, made.metrics["kind"])
        for label, (system, options) in peers.items():
            self._start(label, system, options, f"{system} {options or ''}".strip())

    def _start(self, label: str, system: str, options: dict[str, Any], what: str) -> None:
        process = SystemProcess(system, self.folder, options)
        if system != "retort":
            self.builds[label] = process.ask("build", threads=2)
            with process:  # building leaves memory behind, so a fresh process searches
                pass
            process = SystemProcess(system, self.folder, options)
        self.processes[label] = process
        self.opened[label] = process.ask("open")
        self.tuned[label] = process.ask("tune", recall=RECALL)
        with process:  # tuning looked far and wide: memory is measured at the setting chosen
            pass
        process = self.processes[label] = SystemProcess(system, self.folder, options)
        self.opened[label] = process.ask("open")
        process.ask("look", width=self.tuned[label]["width"])
        process.ask("rate", shape="single", threads=1)
        self.memory[label] = process.ask("memory")
        told = self.tuned[label]
        console.print(
            f"  {self.folder.name}, {label} ({what}): width {told['width']}, recall {told['recall']:.4f}, "
            f"{self.memory[label]['resident'] / self.count:.0f} bytes a vector"
        )

    def rates(self, repeats: int) -> dict[tuple[str, int], dict[str, list[float]]]:
        """Queries per second of every system, by shape of call."""
        found = {}
        for shape, threads in SHAPES:
            asks = {
                label: lambda process=process, shape=shape, threads=threads: process.ask(
                    "rate", shape=shape, threads=threads
                )["per_s"]
                for label, process in self.processes.items()
            }
            found[shape, threads] = interleaved(asks, repeats)
        return found

    def close(self) -> None:
        for process in self.processes.values():
            with process:
                pass

    def add_rows(self, report: Any, prefix: str, repeats: int) -> None:
        """Rows of this set; the peers' best variant stands for each of them."""
        rates = self.rates(repeats)
        note = f"{self.count:,} x 384, recall@10 {RECALL}; " + ", ".join(
            f"{label} width {tuned['width']} ({tuned['recall']:.3f})" for label, tuned in self.tuned.items()
        )
        fit = {label for label, tuned in self.tuned.items() if tuned["recall"] >= RECALL}
        for shape in SHAPES:
            suffix = SUFFIX[shape]
            for peer in ("hnswlib", "usearch"):
                label = self._best(peer, rates[shape], fit)
                if label and "ours" in fit:
                    report.add(
                        ratio_row(
                            f"{prefix}qps_vs_{peer}{suffix}", "queries/s", rates[shape], label, at_least=1.0, note=note
                        )
                    )
            label = self._best("hnswlib", rates[shape], fit)
            if label and "small" in fit:
                report.add(
                    ratio_row(
                        f"{prefix}qps_small_vs_hnswlib{suffix}",
                        "queries/s",
                        rates[shape],
                        label,
                        at_least=None,
                        note=note,
                        ours="small",
                    )
                )
        peer = self._best("hnswlib", rates["single", 1], fit)
        if peer:
            for ours, row, most in (("ours", "bytes_vs_hnswlib", 0.5), ("small", "bytes_small_vs_hnswlib", 0.25)):
                if ours in self.memory:
                    report.add(self._bytes(f"{prefix}{row}", ours, peer, most))
        for label in self.builds:
            report.add(self._build(prefix, label))
        report.add(
            Row(f"{prefix}open_s", "seconds", self.opened["ours"]["first_answer_s"], self.opened[peer]["first_answer_s"] if peer else None, peer,
                note="from the file, whose checksum was found right once on this machine, to the first answer")
        )  # fmt: skip
        report.details[f"{prefix}search"] = {
            "count": self.count,
            "tuned": self.tuned,
            "memory": self.memory,
            "opened": self.opened,
            "builds": self.builds,
            "rates": {f"{shape}, {threads} threads": values for (shape, threads), values in rates.items()},
        }

    def _best(self, peer: str, rates: dict[str, list[float]], fit: set[str]) -> str | None:
        variants = [label for label in rates if label.startswith(peer) and label in fit]
        return max(variants, key=lambda label: statistics.median(rates[label]), default=None)

    def _bytes(self, name: str, ours: str, peer: str, most: float) -> Row:
        mine, theirs = (self.memory[label]["resident"] / self.count for label in (ours, peer))
        whole = mine + self.memory[ours]["untouched"] / self.count
        return Row(
            name, "resident bytes a vector after warm-up", mine, theirs, peer, mine / theirs, target=f"<= {most:g}", met=mine / theirs <= most,
            note=f"ratio is ours over theirs, smaller is better; with every page of the mapped files touched {whole:.0f} bytes, {whole / theirs:.3f}",
        )  # fmt: skip

    def _build(self, prefix: str, label: str) -> Row:
        build = self.builds[label]
        cpu = build.get("cpu_s")
        return Row(
            f"{prefix}build_per_million_{label.replace('-', '_')}", "seconds", build["seconds"] / self.count * 1e6,
            note=f"{build['threads']} threads" + (f"; {cpu / self.count * 1e6:.0f} CPU-seconds" if cpu else ""),
        )  # fmt: skip
