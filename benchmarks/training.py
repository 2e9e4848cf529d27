"""How fast a student is trained: the step against sentence-transformers, Ray Train's cost, workers, memory.

    python benchmarks/training.py [--quick] [--json OUT] [--store FOLDER] [--only ROW ...] [--again ROW ...]

Debian's package descriptions, MiniLM with frozen embeddings, lists of a positive and hard negatives by BM25. The teacher's
scores are made up (a positive's are higher): speed does not depend on what a teacher said. Rows:

    step                      our step, without Ray, over `SentenceTransformerTrainer` with DistillKLDivLoss on the same lists in the
                              same order: same model, batch, cut, optimiser; the peer with bf16 where that is faster here, and
                              with the faster of its attention implementations. The loss of step 1 must agree to 1e-2.
    ray_train                 the same loop under Ray Train over the loop alone
    workers_2                 two workers of one thread each over one of one thread, same batch
    efficiency_64_workers     a model: measured step time and measured bytes per step, a ring over the given network
    gradient_caching_memory   memory of a step of 1,024 queries x 8 passages in chunks over that of 32 x 8 in one piece
"""

from __future__ import annotations

import json
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from harness import ROOT, Report, Row, Stages, arguments, console, interleaved, ratio_row
from real_data import debian
from training_peer import WARM, Peer

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.distillation.collate import Collator
from retort.distillation.course import Course
from retort.distillation.filtering import FalseNegativeFilter
from retort.distillation.loop import DATA_FOLDER, teach_student
from retort.distillation.prepare import prepare
from retort.distillation.student import initial_student
from retort.distillation.trainer import DistilTrainer
from retort.distillation.training_set import TrainingSet
from retort.mining.mine import MineConfig, mine
from retort.models.backend import pick_device, pick_precision
from retort.models.dual_encoder import DualEncoder
from retort.models.imports import encoder_artefact
from retort.models.judgements import Judgements
from retort.resources import Resources, available_cores, limit_threads
from retort.runtime.loop import WorkerLink, run_training
from retort.store import Artefact, open_store
from retort.store.files import FileArea
from retort.store.schemas import JUDGEMENT
from retort.teaching.optimising import freeze, set_dropout
from retort.terminal import TerminalProgress

PEER = "sentence-transformers"
CUT = {"query": 48, "passage": 128}
FROZEN = ("embeddings",)
# A step's queries where a worker has one thread: what Ray costs and two workers bring shows in short steps, too.
THREAD_QUERIES = 8
NETWORKS = {"10 Gbit/s": 10e9 / 8, "100 Gbit/s": 100e9 / 8}
progress = TerminalProgress(console)


class World:
    """Collection, lists with scores, training set; and the numbers of the run."""

    def __init__(self, store: str, quick: bool) -> None:
        self.store, self.quick = open_store(store), quick
        here = {"store": self.store.uri}
        made = debian(store, progress)
        self.corpus, self.queries = made["corpus"], made["train"]
        self.base = encoder_artefact("minilm", self.store)
        self.negatives = 4
        mining = {"corpus": self.corpus.uri, "queries": self.queries.uri, "bm25_k": 8, "dense_k": 0, "random_k": 0, "max_queries": 2000, "name": "debian-lists"}  # fmt: skip
        self.judgements = self._scored(mine(MineConfig.validated({**mining, **here}), progress))
        device = pick_device()
        self.course = Course(
            steps=100_000, batch_queries=8 if quick else 32, negatives=self.negatives, pool="own", similar=1, contrastive_weight=0.0, sentence_weight=1.0,
            word_weight=0.0, sentence_loss="kl", temperature=1.0, student_temperature=1.0, teacher_temperature=1.0, word_temperature=1.0,
            learning_rate=1e-5, weight_decay=0.01, warmup_share=0.0, clip_norm=1.0, round=0, rounds=1, evaluate_every=100_000, patience=1000, seed=13,
            chunk_tokens=1 << 20, forward_tokens=1024 if device.type == "cpu" else 1 << 18, precision=pick_precision(device, "auto"),
        )  # fmt: skip

    def _scored(self, candidates: Artefact) -> Artefact:
        draft = self.store.draft("judgements", "debian-made-up", step="benchmark", inputs={"candidates": candidates, "queries": self.queries, "corpus": self.corpus}, config={"seed": 13})  # fmt: skip
        if draft.published is None:
            queries, generator = QuerySet.open(self.queries), np.random.default_rng(13)
            with draft:
                for part in candidates.parts():
                    table = candidates.part(part, columns=["query_id", "passage_id"])
                    pairs = dict.fromkeys(
                        zip(table["query_id"].to_pylist(), table["passage_id"].to_pylist(), strict=True)
                    )
                    rows = [
                        {"query_id": q, "passage_id": p, "content_hash": "", "window": 0, "trust": 1.0, "word_map": None,
                         "score": float(generator.normal() + 3 * (p in queries.positives(q)))}
                        for q, p in pairs
                    ]  # fmt: skip
                    draft.write_table(part, pa.Table.from_pylist(rows, schema=JUDGEMENT))
                draft.publish()
        assert draft.published is not None
        return draft.published

    @cached_property
    def data(self) -> TrainingSet:
        """Queries that have all their negatives, so that no list is short."""
        reader = DualEncoder.load(self.base.local(), max_tokens=CUT)
        judgements, queries = Judgements.open(self.judgements), QuerySet.open(self.queries)
        whole = [group.query_id for group in judgements if len(group) > self.negatives + 1]
        data, _ = prepare(
            queries=queries.subset(whole), passages=Passages.open(self.corpus), judgements=judgements, encoder=reader,
            false_negatives=FalseNegativeFilter(), negatives=self.negatives, use_unlabelled=False, use_unjudged=False, words=False,
            passage_vectors=None, similar=False,
        )  # fmt: skip
        return data

    def settings(self, folder: Path, steps: int, batch_queries: int | None = None) -> dict[str, Any]:
        """What the loop and the two processes are told."""
        self.data.save(folder / DATA_FOLDER)
        course = replace(self.course, steps=steps, evaluate_every=steps)
        if batch_queries is not None:
            course = replace(course, batch_queries=batch_queries)
        return {
            "start": self.base, "layers": None, "frozen": list(FROZEN), "dropout": 0.0, "course": asdict(course), "area": FileArea(str(folder)),
            "judgements": None, "checkpoint_steps": None, "checkpoint_minutes": 1e6,
        }  # fmt: skip


def bare_trainer(settings: Mapping[str, Any], rank: int = 0, world: int = 1) -> DistilTrainer:
    """A trainer of what the loop would train, without it."""
    course = Course(**settings["course"])
    student = initial_student(
        settings["start"].local(), layers=None, precision=course.precision, device=str(pick_device())
    )
    freeze(student.model, settings["frozen"])
    set_dropout(student.model, settings["dropout"])
    data = TrainingSet.open(settings["area"].root / DATA_FOLDER)
    collator = Collator(data, padding=int(student.tokenizer.pad_token_id or 0), chunk_tokens=course.chunk_tokens, forward_tokens=course.forward_tokens, word_targets=None)  # fmt: skip
    return DistilTrainer(student, data, course, collator, None, rank=rank, world=world)


# The step -------------------------------------------------------------------------------------------------------------------


def add_step(report: Report, world: World, folder: Path) -> None:
    """Row step."""
    limit_threads(available_cores())
    steps, repeats = (WARM + 3, 2) if world.quick else (WARM + 10, 3)
    with bare_trainer(world.settings(folder, 100_000)) as ours:
        first: list[float] = []

        def rate() -> float:
            for _ in range(WARM):
                first.append(ours.step()["loss"])
            began = time.perf_counter()
            for _ in range(steps - WARM):
                ours.step()
            return world.course.batch_queries * (steps - WARM) / (time.perf_counter() - began)

        peer = Peer(
            data=world.data, queries=world.queries, corpus=world.corpus, base=world.base, ours=ours, course=world.course, cut=CUT["passage"], steps=steps,
        )  # fmt: skip
        choice = peer.choose()
        rates = interleaved({"ours": rate, PEER: peer.rate}, repeats)
    assert peer.first_loss is not None, "a trainer logs its first step"
    difference = abs(first[0] - peer.first_loss)
    row = ratio_row("step", "examples/s", rates, PEER, at_least=1.3)
    row.met = bool(row.met and difference <= 1e-2)
    row.note = (
        f"{world.course.batch_queries} queries x {1 + world.negatives} passages of at most {CUT['passage']} tokens, {world.course.precision}, {available_cores()} threads; "
        f"loss of step 1 {first[0]:.4f}, the peer's {peer.first_loss:.4f}; the peer with {peer.attention} attention "
        f"({', '.join(f'{name} {value:.2f}' for name, value in choice.items())} examples/s)"
    )
    report.add(row)


# Ray Train and workers ------------------------------------------------------------------------------------------------------


def stamped(settings: dict[str, Any], link: WorkerLink) -> None:
    """The loop, with the time of each report in it."""
    report = link.report
    link.report = lambda metrics: report({**metrics, "at": time.time()})  # type: ignore[method-assign]
    teach_student(settings, link)


def rate_of(reports: list[dict[str, Any]], batch: int) -> float:
    """Examples/s between reports, the first steps left out."""
    at = [report["at"] for report in reports if "loss" in report]
    return batch * (len(at) - WARM) / (at[-1] - at[WARM - 1])


def under_ray(world: World, folder: Path, steps: int, workers: int, threads: int) -> float:
    """Examples/s of the loop under Ray Train."""
    settings = world.settings(folder / "data", steps, THREAD_QUERIES)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        outcome = run_training(
            stamped, settings, Resources(workers=workers, threads=threads, cpus_per_worker=float(threads)), scratch=scratch, run_name="timed",
            into=Path(scratch) / "last",
        )  # fmt: skip
    return rate_of(outcome.reports, THREAD_QUERIES)


def alone(world: World, folder: Path, steps: int, threads: int) -> float:
    """Examples/s of the same loop without Ray."""
    limit_threads(threads)
    link = WorkerLink()
    stamped(world.settings(folder / "data", steps, THREAD_QUERIES), link)
    return rate_of(link.reports, THREAD_QUERIES)


def add_ray_train(report: Report, world: World, folder: Path) -> None:
    """Row ray_train."""
    steps, repeats = (WARM + 4, 1) if world.quick else (WARM + 20, 3)
    threads = max(1, available_cores() - 1)  # a core for Ray's own processes on both sides
    sides = {
        "ours": lambda: under_ray(world, folder, steps, 1, threads),
        "the loop alone": lambda: alone(world, folder, steps, threads),
    }
    report.add(
        ratio_row("ray_train", "examples/s", interleaved(sides, repeats), "the loop alone", at_least=0.97, note=f"one worker, {threads} threads on both sides, {THREAD_QUERIES} queries a step")
    )  # fmt: skip


def add_workers(report: Report, world: World, folder: Path) -> None:
    """Rows workers_2 and efficiency_64_workers."""
    steps, repeats = (WARM + 4, 1) if world.quick else (WARM + 12, 3)
    sides = {
        "ours": lambda: under_ray(world, folder, steps, 2, 1),
        "one worker": lambda: under_ray(world, folder, steps, 1, 1),
    }
    rates = interleaved(sides, repeats)
    row = ratio_row("workers_2", "examples/s", rates, "one worker", at_least=1.0)
    row.target = row.met = None
    row.note = f"same global batch of {THREAD_QUERIES}, one thread a worker; {available_cores()} cores, which Ray's own processes share"
    report.add(row)
    sent = bytes_per_step(world, folder)
    # The model's workers have whole batches, at the rate that short steps showed.
    step_s = world.course.batch_queries / statistics.median(rates["one worker"])
    model = {name: efficiency(64, step_s, sent, bandwidth) for name, bandwidth in NETWORKS.items()}
    report.add(
        Row("efficiency_64_workers", "share", model["10 Gbit/s"],
            note=f"a model, not a measurement: {world.course.batch_queries} queries per worker and step take {step_s:.2f} s (at the rate measured with one thread), gradients {sent['gradients'] / 1e6:.1f} MB and vectors "
            f"{sent['vectors'] / 1e3:.1f} kB per worker and step (measured with two), a ring at 10 Gbit/s without overlap; at 100 Gbit/s {model['100 Gbit/s']:.4f}")
    )  # fmt: skip
    report.details["communication"] = {"bytes_per_step": sent, "efficiency_64": model, "step_s": step_s}


def efficiency(workers: int, step_s: float, sent: Mapping[str, float], bandwidth: float) -> float:
    """Share of the time in which a worker computes, at a constant batch per worker.

    A ring sends 2 (n - 1) / n of the gradients. Of the vectors a worker receives n - 1 shares, and their gradients, all n shares,
    are summed by a ring of 2 (n - 1) / n of them: 3 (n - 1) shares, of which two workers were measured to hand over 3.
    """
    gradients = 2 * (workers - 1) / workers * sent["gradients"]
    vectors = (workers - 1) * sent["vectors"]
    return step_s / (step_s + (gradients + vectors) / bandwidth)


def bytes_per_step(world: World, folder: Path) -> dict[str, float]:
    """What each of two workers hands to its collectives per step, with negatives of all workers."""
    settings = world.settings(folder / "data", 100)
    # Everybody's passages, as `pool: all` has them; a batch for each of the two as large as the one that was timed.
    settings["course"] = {**settings["course"], "pool": "all", "batch_queries": 2 * world.course.batch_queries}
    target = folder / "bytes"
    target.mkdir()
    (target / "world.pickle").write_bytes(pickle.dumps(settings))
    script = str(ROOT / "benchmarks" / "training_bytes.py")
    processes = [
        subprocess.Popen([sys.executable, script, str(rank), str(target), "2"], stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    told = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit("training_bytes.py failed; its error stands above.")
    found: dict[str, float] = json.loads(told[0].strip().splitlines()[-1])
    return found


# Memory ---------------------------------------------------------------------------------------------------------------------


def step_memory(queries: int, chunk_tokens: int) -> int:
    """Bytes that a step takes, in a process of its own."""
    script = str(ROOT / "benchmarks" / "training_memory.py")
    done = subprocess.run(
        [sys.executable, script, str(queries), str(chunk_tokens)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"training_memory.py ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return int(done.stdout.strip().splitlines()[-1])


def add_memory(report: Report, quick: bool) -> None:
    """Row gradient_caching_memory."""
    many = 128 if quick else 1024
    large, small = step_memory(many, 16384), step_memory(32, 1 << 30)
    report.add(
        Row("gradient_caching_memory", "ratio", large / small, target="<= 1", met=large <= small,
            note=f"peak of a step of {many:,} queries x 8 passages in chunks of 16,384 tokens, {large / 2**20:.0f} MiB, over that of 32 x 8 in one piece, {small / 2**20:.0f} MiB; all "
            "three losses, a small student (6 layers, 64 dimensions), passages of 128 tokens")
    )  # fmt: skip


def main() -> None:
    args = arguments("Training a student: speed and memory.", Stages.options)
    stages = Stages("training", args)

    @cache
    def world() -> World:
        return World(args.store, args.quick)

    def with_folder(add: Callable[[Report, World, Path], None]) -> Callable[[Report], None]:
        def work(report: Report) -> None:
            with tempfile.TemporaryDirectory() as folder:
                add(report, world(), Path(folder))

        return work

    stages.run("gradient_caching_memory", lambda report: add_memory(report, args.quick))
    stages.run("step", with_folder(add_step))
    stages.run("ray_train", with_folder(add_ray_train))
    stages.run("workers_2", with_folder(add_workers))
    stages.report.finish(args.json)


if __name__ == "__main__":
    main()
