"""Tuning on Ray: the whole step at a given rate and at one that is found, any number of workers, and going on after a kill."""

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

from retort.indexing.build import IndexConfig, index
from retort.indexing.exact import ExactIndex
from retort.models.dual_encoder import DualEncoder
from retort.releases.release import make_release
from retort.serving.opening import open_release
from retort.serving.searcher import SearchQuery
from retort.store import Artefact, open_store
from retort.tuning.delta import apply_delta
from retort.tuning.fakes import publish_two_languages
from retort.tuning.tune import NoSafePointError, TuneConfig, tune

World = dict[str, Artefact]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return publish_two_languages(open_store(), tmp_path / "base")


@pytest.fixture
def other_store(world: World, tmp_path: Path) -> str:
    """The same artefacts in another store."""
    shutil.copytree(world["corpus"].store_area().root, tmp_path / "other")
    return str(tmp_path / "other")


def config(**more: Any) -> TuneConfig:
    settings = {
        "embeddings": "two", "queries": "two.queries", "dev_queries": "two.dev", "guard_queries": ["two.guard"], "learning_rate": 1e-5,
        "batch_queries": 8, "epochs": 2, "negatives": 3, "precision": "fp32", "resources": {"workers": 1, "threads": 1},
        "guard": {"least_queries": 20, "least_recall": 0.1, "margin": 0.08, "looks": 2},
    }  # fmt: skip
    return TuneConfig.model_validate({**settings, **more})


def weights(encoder: Artefact) -> dict[str, torch.Tensor]:
    return load_file(encoder.local("model.safetensors"))


def test_a_query_encoder_is_tuned_published_and_not_tuned_twice(world: World, tmp_path: Path) -> None:
    watch = Watch()
    encoder = tune(config(), watch)
    found, base = encoder.metrics, world["encoder"]
    assert encoder.kind == "encoder" and found["steps"] in (6, 12) and found["planned_steps"] == 12
    assert found["passage_space"] == base.metrics["passage_space"] == world["embeddings"].metrics["passage_space"]
    assert (
        found["all_kept"]
        and found["languages"] == {"kept": 2}
        and found["target_change"] > 0
        and found["better_than_base"]
    )
    assert found["moved"] > 0.9 and found["median_ulps"] > 1
    assert found["vectors_digest_before"] == found["vectors_digest_after"] == world["embeddings"].digest
    assert {record.role for record in encoder.manifest.inputs} == {
        "corpus", "embeddings", "queries", "dev_queries", "guard_queries.0", "encoder",
    }  # fmt: skip
    assert watch.by_task["tuning"] == 12 and any("dev MRR@10" in note and "all kept" in note for note in watch.notes)
    assert any(line.startswith("Kept: 2 languages") for line in watch.said)
    assert not [path for path in encoder.area.root.iterdir() if path.name.startswith("_")], "scratch is gone"
    again = Watch()
    assert tune(config(), again).digest == encoder.digest and "already made" in again.said[0]

    # It searches its base's vectors, here and in sentence-transformers; what is frozen is its base's to the bit.
    ours = DualEncoder.load(encoder.local(), device="cpu", precision="fp32")
    assert ours.passage_space == found["passage_space"] != ours.own_space()
    from sentence_transformers import SentenceTransformer

    texts = ["amber birch cedar", "the river of stone"]
    assert np.allclose(
        ours.encode(texts, "query"), SentenceTransformer(str(encoder.local()), device="cpu").encode(texts), atol=1e-5
    )
    before, after = weights(base), weights(encoder)
    assert before.keys() == after.keys()
    same = {name for name in before if torch.equal(before[name].float(), after[name].float())}
    assert same == {name for name in before if name.startswith(("embeddings.", "pooler."))}

    # The delta gives it back from its base.
    apply_delta(base.local("model.safetensors"), encoder.local("delta.safetensors"), tmp_path / "restored.safetensors")
    restored = load_file(tmp_path / "restored.safetensors")
    assert all(torch.equal(restored[name], value) for name, value in after.items())

    # What is told: report, page, card, and the log of the run.
    report = json.loads(encoder.local("report.json").read_text())
    assert report["vectors"]["digest_before"] == report["vectors"]["digest_after"] and report["sweep"] is None
    assert [look["step"] for look in report["looks"]] == [6, 12] and report["judgement"]["all_kept"]
    assert {(row["language"], row["kind"]) for row in report["after"]} == {
        ("de", "same"), ("de", "cross"), ("en-us", "same"), ("en", "target"),
    }  # fmt: skip
    assert "<html" in encoder.local("page.html").read_text()
    card = encoder.local("README.md").read_text()
    assert "search any index of passage space" in card and "Kept: 2 languages" in card
    logs = encoder.store_area().root / "logs" / "encoder" / encoder.key[:16]
    lines = [json.loads(line) for line in (logs / "tuning.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    assert all({"grad_norm", "examples_per_s", "wait_share"} <= line.keys() for line in lines if "loss" in line)


def test_a_rate_that_damages_is_stopped_and_nothing_is_published(world: World) -> None:
    with pytest.raises(
        NoSafePointError,
        match=r"at the first of 2 looks, after 6 of 12 steps at a rate of 0\.01.*Fell: .*Lower learning_rate",
    ):
        tune(config(learning_rate=1e-2, name="rough"))
    assert "rough" not in open_store().names("encoder")


@pytest.mark.slow
def test_tuned_encoders_serve_side_by_side_over_their_bases_index(world: World) -> None:
    store = open_store()
    for name, rate in (("gentle", 1e-6), ("brisk", 1e-5)):
        tune(config(learning_rate=rate, name=name))
    made = index(IndexConfig.model_validate({"embeddings": "two", "shards": 2, "name": "both"}))
    encoders = {"base": world["encoder"], **{name: store.get(name, "encoder") for name in ("gentle", "brisk")}}
    searcher = open_release(make_release(store, made, encoders), store)
    query = "amber birch cedar"
    exact = ExactIndex.open(world["embeddings"])
    found = {}
    for name, encoder in encoders.items():
        vector = DualEncoder.load(encoder.local()).encode([query], "query")
        expected = exact.search(vector, 3)
        hits = searcher.search([SearchQuery(query, k=3, encoder=name)])[0].hits
        assert [hit.passage_id for hit in hits] == exact.passage_ids(expected.rows[0])
        found[name] = [hit.score for hit in hits]
        assert np.allclose(found[name], expected.scores[0], atol=1e-5)
    assert len({tuple(scores) for scores in found.values()}) == 3


@pytest.mark.slow
def test_the_rate_is_found_below_damage(world: World) -> None:
    watch = Watch()
    sweep = {"start": 1e-5, "factor": 16, "trials": 5, "refine": 1}
    encoder = tune(config(learning_rate="auto", sweep=sweep), watch)
    rows = {row["rate"]: row for row in encoder.metrics["sweep"]}
    safe = [rate for rate, row in rows.items() if row["safe"]]
    unsafe = [rate for rate, row in rows.items() if not row["safe"]]
    assert any(row["damaging"] and row["damaged"] for row in rows.values()) and max(safe) < min(unsafe)
    good = {rate: row for rate, row in rows.items() if row["best_step"]}
    best = good[max(sorted(good), key=lambda rate: good[rate]["best_target"])]
    assert encoder.metrics["rate_found"] and encoder.metrics["rate"] == best["rate"]
    assert encoder.metrics["steps"] == encoder.metrics["planned_steps"] == best["best_step"]
    assert encoder.metrics["all_kept"] and encoder.metrics["target_change"] > 0
    assert any("damages a language" in line for line in watch.said)
    # A trial in one process takes the run's steps: the same figures at the same point.
    after = encoder.metrics["target_before"] + encoder.metrics["target_change"]
    assert after == pytest.approx(best["best_target"], abs=1e-6)
    assert json.loads(encoder.local("report.json").read_text())["sweep"] == encoder.metrics["sweep"]


@pytest.mark.slow
def test_a_sweep_in_parallel_finds_the_same_and_a_killed_one_goes_on(world: World, other_store: str) -> None:
    sweep = {"start": 1e-5, "factor": 16, "trials": 4, "refine": 1}
    settings = config(learning_rate="auto", sweep=sweep, store=other_store)
    code = (
        "import sys; from retort.tuning.tune import TuneConfig, tune; tune(TuneConfig.model_validate_json(sys.argv[1]))"
    )
    driver = subprocess.Popen([sys.executable, "-c", code, settings.model_dump_json()], start_new_session=True)
    deadline = time.monotonic() + 400
    while not list(Path(other_store).glob("encoder/*/_sweep/rate-*.json")):
        assert driver.poll() is None, "the driver ended before it could be killed"
        assert time.monotonic() < deadline, "no trial ended in time"
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    done = {path.name: path.read_bytes() for path in Path(other_store).glob("encoder/*/_sweep/rate-*.json")}
    watch = Watch()
    resumed = tune(settings, watch)
    rates = {row["rate"] for row in resumed.metrics["sweep"]}
    started = {note.split(",")[0].split(":")[0] for note in watch.notes if note.startswith("rate ")}
    assert started and not started & {f"rate {float(name[5:-5]):.3g}" for name in done}, (
        "finished trials are not done again"
    )
    parallel = tune(config(learning_rate="auto", sweep=sweep, resources={"workers": 2, "threads": 1}))
    assert {row["rate"] for row in parallel.metrics["sweep"]} == rates
    assert parallel.metrics["rate"] == resumed.metrics["rate"]


@pytest.mark.slow
def test_two_workers_tune_what_one_does(world: World, other_store: str) -> None:
    one = tune(config(learning_rate=1e-6))
    two = tune(config(learning_rate=1e-6, store=other_store, resources={"workers": 2, "threads": 1}))
    assert one.key == two.key
    curves = [json.loads(e.local("report.json").read_text())["curve"]["loss"] for e in (one, two)]
    assert curves[1] == pytest.approx(curves[0], rel=1e-4, abs=2e-6)
    assert two.metrics["target_change"] == pytest.approx(one.metrics["target_change"], abs=1e-3)
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[name], tensor, atol=2.5e-5, rtol=0, msg=name)


@pytest.mark.slow
def test_a_lost_worker_changes_nothing(world: World, other_store: str) -> None:
    unbroken = tune(config(epochs=4))
    killed: list[int] = []

    def kill_after_a_checkpoint() -> None:
        if watch.done.get("tuning", 0) >= 14 and not killed:
            for process in psutil.Process().children(recursive=True):
                if "RayTrainWorker" in " ".join(process.cmdline()):
                    killed.append(process.pid)
                    process.kill()

    watch = Watch(kill_after_a_checkpoint)
    broken = tune(config(epochs=4, store=other_store, checkpoint_steps=4), watch)
    assert killed
    assert broken.digest == unbroken.digest


@pytest.mark.slow
def test_without_a_guard_it_says_so(world: World) -> None:
    watch = Watch()
    encoder = tune(config(guard_queries=[], unguarded=True, learning_rate=1e-2, dev_queries=None), watch)
    assert encoder.metrics["unguarded"] and "verdict" not in encoder.metrics
    assert any("nothing is known of any language" in line for line in watch.said)
    assert "**No language was watched**" in encoder.local("README.md").read_text()
