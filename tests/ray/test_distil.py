"""Distilling on Ray Train: it learns, any number of workers agrees, a killed run goes on exactly, and anyone can use the result."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file
from tests.watch import Watch

from retort.corpus.queries import QuerySet
from retort.distillation.distil import DistilConfig, distil
from retort.distillation.fakes import publish_judgements
from retort.distillation.student_audit import audit_student
from retort.models.dual_encoder import DualEncoder
from retort.models.fakes import tiny_encoder
from retort.store import Artefact, open_store
from retort.teaching.fakes import SMALL_WORDS, publish_small_world
from retort.teaching.trainer import NotFiniteError

World = dict[str, Artefact]


@pytest.fixture
def world(tmp_path: Path) -> World:
    tiny_encoder(tmp_path / "base", SMALL_WORDS, layers=3)
    store = open_store()
    artefacts = publish_small_world(store, passages=40, queries=32, per_part=8, depth=8)
    return {**artefacts, "judgements": publish_judgements(store, artefacts)}


@pytest.fixture
def other_store(world: World, tmp_path: Path) -> str:
    """The same artefacts in another store."""
    shutil.copytree(world["corpus"].store_area().root, tmp_path / "other")
    return str(tmp_path / "other")


def config(tmp_path: Path, **more: Any) -> DistilConfig:
    settings = {
        "base": str(tmp_path / "base"), "corpus": "small", "queries": "small", "judgements": "small", "dev_queries": "small",
        "dev_candidates": "small", "batch_queries": 8, "similar": 4, "epochs": 5, "learning_rate": 2e-3, "frozen": (), "evaluate_every": 5,
        "precision": "fp32", "resources": {"workers": 1, "threads": 1},
    }  # fmt: skip
    return DistilConfig(**{**settings, **more})


def weights(encoder: Artefact) -> dict[str, torch.Tensor]:
    return load_file(encoder.local("model.safetensors"))


def test_an_encoder_is_distilled_published_and_not_distilled_twice(world: World, tmp_path: Path) -> None:
    watch = Watch()
    encoder = distil(config(tmp_path), watch)
    found = encoder.metrics
    assert encoder.kind == "encoder" and found["steps"] == 20
    assert [entry["step"] for entry in found["history"]] == [0, 5, 10, 15, 20]
    assert found["better_than_base"] is True and found["dev_mrr10_student"] > found["dev_mrr10_base"] + 0.1
    assert found["last_loss"] < found["first_loss"] and found["word_maps"] == 256
    assert watch.done == 20 and any(
        all(word in note for word in ("loss", "gradient", "examples/s", "waited", "dev MRR@10")) for note in watch.notes
    )
    assert {r.role for r in encoder.manifest.inputs} == {
        "base",
        "corpus",
        "queries",
        "judgements",
        "dev_queries",
        "dev_candidates",
    }
    assert not [path for path in encoder.area.root.iterdir() if path.name.startswith("_")], "scratch is gone"
    again = Watch()
    assert distil(config(tmp_path), again).digest == encoder.digest
    assert again.notes == [] and "already made" in again.said[0]

    # What others load.
    texts = ["amber birch", "the river of stone"]
    ours = DualEncoder.load(encoder.local(), device="cpu", precision="fp32")
    assert ours.passage_space == found["passage_space"]
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(encoder.local()), device="cpu").encode(texts)
    assert np.allclose(ours.encode(texts), theirs, atol=1e-5)
    card = encoder.local("README.md").read_text()
    assert "small-student" in card and world["judgements"].digest[:12] in card and "| this encoder |" in card

    # What training wrote while it ran.
    logs = encoder.store_area().root / "logs" / "encoder" / encoder.key[:16]
    lines = [json.loads(line) for line in (logs / "training.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 21))
    assert all(
        {"contrastive", "sentence", "word", "grad_norm", "examples_per_s", "wait_s"} <= line.keys() for line in steps
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(logs))
    board.Reload()
    names = ("contrastive", "sentence", "word", "grad_norm", "examples_per_s", "wait_share", "mrr10")
    assert {f"distil/{name}" for name in names} <= set(board.Tags()["scalars"])
    assert [event.value for event in board.Scalars("distil/loss")] == pytest.approx(
        [line["loss"] for line in steps], rel=1e-5
    )


@pytest.mark.slow
def test_two_workers_distil_what_one_does(world: World, other_store: str, tmp_path: Path) -> None:
    settings = {"epochs": 2, "learning_rate": 1e-4}
    one = distil(config(tmp_path, **settings))
    two = distil(
        config(tmp_path, **settings, store=other_store, chunk_tokens=256, resources={"workers": 2, "threads": 1})
    )
    assert one.key == two.key
    curves = [json.loads(e.local("training_curve.json").read_text()) for e in (one, two)]
    for part in ("loss", "grad_norm"):
        assert curves[1][part] == pytest.approx(curves[0][part], rel=1e-5)
    base = load_file(tmp_path / "base" / "model.safetensors")
    moves = [torch.cat([(tensor - base[name]).reshape(-1) for name, tensor in weights(e).items()]) for e in (one, two)]
    # Of the whole way: Adam makes full steps even along gradients that are nothing but rounding (a key's bias).
    assert (moves[1] - moves[0]).norm() < 0.02 * moves[0].norm()


def publish_taught(world: World, queries: int) -> World:
    """The first queries with their candidates, judged by a teacher (known by its digest alone)."""
    store = open_store()
    files = {name: world["queries"].part(name).slice(0, queries) for name in ("queries.parquet", "qrels.parquet")}
    found = {"corpus": world["corpus"]}
    with store.draft("queries", "taught", step="fake", inputs=found, config={"queries": queries}) as draft:
        for name, table in files.items():
            draft.write_table(name, table)
        found["queries"] = draft.publish()
    with store.draft("candidates", "taught", step="fake", inputs=found, config={"queries": queries}) as draft:
        for part in world["candidates"].parts()[: queries // 8]:
            draft.write_table(part, world["candidates"].part(part))
        found["candidates"] = draft.publish()
    return {**found, "judgements": publish_judgements(store, {**found, "teacher": world["corpus"]}, name="taught")}


def test_student_and_base_are_audited_reading_as_much_as_they_can(world: World, tmp_path: Path) -> None:
    taught = publish_taught(world, 16)
    teacher = world["corpus"]
    entry = {
        "name": teacher.name, "digest": teacher.digest, "verdict": {"passed": True}, "length_correlation": None, "worst_slice": None, "slices": [],
        "unseen": {"pair_accuracy": {"mean": 0.9}, "ndcg@10": {"mean": 0.8}},
    }  # fmt: skip
    inputs = {role: world[role] for role in ("corpus", "queries", "candidates")}
    settings = {"max_queries": 500, "seed": 13}
    with open_store().draft("report", "audited", step="audit", inputs=inputs, config=settings) as draft:
        draft.write_json("audit.json", {"teachers": [entry]})
        audit = draft.publish()
    # Four tokens of a passage in training: the two words that its query asks for.
    given = config(tmp_path, queries="taught", judgements="taught", teacher_audit="audited", max_passage_tokens=4, word_weight=0, epochs=2)  # fmt: skip
    encoder = distil(given)
    found = encoder.json("student_audit.json")
    assert found["queries"] == 16, "those that it did not learn from"
    base = DualEncoder.load(tmp_path / "base", device="cpu", precision="fp32")
    texts = QuerySet.open(taught["queries"]).texts
    expected = audit_student(audit, (teacher.digest, teacher.name), base, base, texts, given.seed)
    assert expected is not None and found["systems"]["base"] == expected["systems"]["base"]
    card = encoder.local("README.md").read_text()
    assert "| teacher | 0.900 | 0.800 |" in card and "| base |" in card and "| student |" in card
    # The filter's numbers are the card's too.
    filtered = encoder.metrics["filter"]
    assert filtered["thresholds"] == [{"round": 0, "threshold": filtered["threshold"]}]
    assert f"| 0 | {filtered['threshold']:.3f} |" in card and f"{filtered['dropped']} (" in card


@pytest.mark.slow
def test_a_lost_worker_changes_nothing(world: World, other_store: str, tmp_path: Path) -> None:
    unbroken = distil(config(tmp_path))
    killed: list[int] = []

    def kill_after_a_checkpoint() -> None:
        if watch.done >= 12 and not killed:
            for process in psutil.Process().children(recursive=True):
                if "RayTrainWorker" in " ".join(process.cmdline()):
                    killed.append(process.pid)
                    process.kill()

    watch = Watch(kill_after_a_checkpoint)
    broken = distil(config(tmp_path, store=other_store), watch)
    assert killed
    assert broken.digest == unbroken.digest


DRIVER = """
import signal, sys, time
import retort.distillation.loop as loop
from retort.distillation.distil import DistilConfig, distil

def slow(settings, link):
    import retort.distillation.loop as loop
    step = loop.DistilTrainer.step
    def later(self, flag=False):
        time.sleep(0.2)
        return step(self, flag)
    loop.DistilTrainer.step = later
    try:
        plain(settings, link)
    finally:
        loop.DistilTrainer.step = step

plain, loop.teach_student = loop.teach_student, slow
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may come ignored
distil(DistilConfig.model_validate_json(sys.argv[1]))
"""


def snapshots(store: str) -> list[Path]:
    """Ray's lists of registered checkpoints."""
    return list(Path(store).glob("encoder/*/_scratch/**/checkpoint_manager_snapshot.json"))


@pytest.mark.slow
def test_a_killed_driver_is_gone_on_from_with_the_same_digest(world: World, other_store: str, tmp_path: Path) -> None:
    unbroken = distil(config(tmp_path))
    settings = config(tmp_path, store=other_store)
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, settings.model_dump_json()], start_new_session=True)
    deadline = time.monotonic() + 400
    # Not the checkpoint's files: Ray registers it seconds later on a busy machine, and an unregistered one does not count.
    while not any('"checkpoint_dir_name"' in path.read_text() for path in snapshots(other_store)):
        assert driver.poll() is None, "the driver ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    watch = Watch()
    finished = distil(settings, watch)
    assert finished.digest == unbroken.digest
    assert len(watch.notes) <= 15, "the steps before the checkpoint are not done again"


@pytest.mark.slow
def test_a_smaller_student_of_a_later_round_is_measured_against_the_base(world: World, tmp_path: Path) -> None:
    first = distil(config(tmp_path, epochs=1, name="first"))
    second = distil(config(tmp_path, epochs=1, name="second", start="first", layers=2, word_weight=0, round=1))
    assert second.metrics["dev_mrr10_base"] == pytest.approx(first.metrics["dev_mrr10_base"], abs=1e-4)
    student = DualEncoder.load(second.local(), device="cpu")
    assert student.model.config.num_hidden_layers == 2
    assert not [name for name in weights(second) if "layer.2." in name]


def test_a_loss_that_is_not_a_number_stops_the_run_and_says_where(world: World, tmp_path: Path) -> None:
    with pytest.raises(NotFiniteError, match=r"batch \d+.*last good checkpoint is kept in .*_scratch"):
        distil(config(tmp_path, learning_rate=1e30, clip_norm=1e30))


def search_config(tmp_path: Path, **more: Any) -> DistilConfig:
    """A search whose first trial has a rate at which nothing is learnt."""
    search = {
        "trials": 3, "steps": 6, "fields": ["learning_rate", "sentence_weight"], "ranges": {"learning_rate": [1e-6, 4e-3]},
    }  # fmt: skip
    return config(tmp_path, epochs=2, search=search, learning_rate=1e-6, evaluate_every=8, **more)


def test_a_small_search_finds_the_values_of_the_run(world: World, tmp_path: Path) -> None:
    watch = Watch()
    encoder = distil(search_config(tmp_path), watch)
    found = encoder.metrics["search"]
    rows = found["trials"]
    assert [row["trial"] for row in rows] == [0, 1, 2] and found["steps"] == 6
    assert rows[0]["values"] == {"learning_rate": 1e-6, "sentence_weight": 0.5}
    assert {row["history"][0]["step"] for row in rows} == {2}, "every trial gets to the first rung"
    whole = [row for row in rows if row["history"][-1]["step"] == 6]
    best = max(whole, key=lambda row: row["mrr10"])
    assert found["values"] == best["values"] and found["trial"] == best["trial"] != 0
    assert watch.by_task["searching weights, temperatures and rate"] == len(whole)
    assert any("is the best on the dev pool" in line for line in watch.said)
    card = encoder.local("README.md").read_text()
    assert "a search of 3 short trials" in card and "| 0 | 1e-06 | 0.5 |" in card
    logs = encoder.store_area().root / "logs" / "encoder" / encoder.key[:16] / "training.jsonl"
    rates = [json.loads(line).get("learning_rate", 0) for line in logs.read_text().splitlines()]
    assert max(rates) == pytest.approx(found["values"]["learning_rate"], rel=1e-6), "the run has what was found"


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_search_goes_on_and_finds_the_same(
    world: World, other_store: str, tmp_path: Path, ending: signal.Signals
) -> None:
    unbroken = distil(search_config(tmp_path))
    settings = search_config(tmp_path, store=other_store)
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, settings.model_dump_json()],
        start_new_session=True,
    )
    deadline = time.monotonic() + 400
    rows: list[Path] = []
    while len(rows) < 2:
        assert driver.poll() is None, "the driver ended before it could be killed"
        assert time.monotonic() < deadline, "no rows in time"
        time.sleep(0.05)
        rows = list(Path(other_store).glob("encoder/*/_search/trial-*.json"))
    driver.send_signal(ending)
    driver.wait(timeout=60)  # Ctrl-C ends the run: no search of fewer trials, and no training after it
    assert not list(Path(other_store).glob("encoder/*/_search/found.json"))
    first = rows[0].parent / "trial-000.json"
    before = first.stat().st_mtime_ns
    seen: list[int] = []
    resumed = distil(settings, Watch(lambda: seen.append(first.stat().st_mtime_ns) if first.exists() else None))
    assert seen and set(seen) == {before}, "a trial that ended is not tried again"
    assert resumed.metrics["search"] == unbroken.metrics["search"] and resumed.digest == unbroken.digest
