"""Training a teacher on Ray Train: it learns, any number of workers agrees, and a killed run goes on exactly."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tests.watch import Watch

from retort.models.cross_encoder import CrossEncoder
from retort.models.fakes import tiny_encoder
from retort.store import Artefact, open_store
from retort.teaching.fakes import SMALL_WORDS, publish_small_world
from retort.teaching.train import TrainTeacherConfig, train_teacher
from retort.teaching.trainer import NotFiniteError


@dataclass(frozen=True)
class World:
    """A store with a small corpus, a tiny encoder in a folder, and the teacher of an unbroken run."""

    folder: Path
    teacher: Artefact
    watch: Watch

    def config(self, store: str | None = None, **more: Any) -> TrainTeacherConfig:
        """What the unbroken run was made with; `store` names a copy of the store without the teacher."""
        settings = {
            "store": store or str(self.folder / "store"), "base": str(self.folder / "base"), "corpus": "small", "queries": "small",
            "candidates": "small", "batch_queries": 8, "negatives": 3, "epochs": 4, "learning_rate": 2e-3,
            "head_learning_rate": 2e-3, "evaluate_every": 4, "max_tokens": 48, "frozen": (), "precision": "fp32", "patience": 9,
            "resources": {"workers": 1, "threads": 1},
        }  # fmt: skip
        return TrainTeacherConfig(**{**settings, **more})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Made once: starting Ray Train takes longer than the training."""
    folder = tmp_path_factory.mktemp("world")
    tiny_encoder(folder / "base", SMALL_WORDS)
    publish_small_world(open_store(str(folder / "store")), passages=40, queries=32, per_part=8, depth=8)
    shutil.copytree(folder / "store", folder / "empty")
    watch = Watch()
    made = World(folder, None, watch)  # type: ignore[arg-type]
    return replace(made, teacher=train_teacher(made.config(), watch))


@pytest.fixture
def other_store(world: World, tmp_path: Path) -> str:
    """The same artefacts in another store, where no teacher was trained."""
    shutil.copytree(world.folder / "empty", tmp_path / "other")
    return str(tmp_path / "other")


def weights(teacher: Artefact) -> dict[str, torch.Tensor]:
    return load_file(teacher.local("model.safetensors"))


def test_a_teacher_is_trained_published_and_not_trained_twice(world: World) -> None:
    teacher, history = world.teacher, world.teacher.metrics["history"]
    assert teacher.kind == "teacher" and teacher.metrics["steps"] == 16
    assert [entry["step"] for entry in history] == [4, 8, 12, 16]
    assert teacher.metrics["ndcg@10"] == pytest.approx(max(entry["ndcg@10"] for entry in history), abs=1e-5)
    assert world.watch.done == 16
    assert any("loss" in note and "pairs/s" in note and "nDCG@10" in note for note in world.watch.notes)
    loaded = CrossEncoder.load(teacher.local())
    assert loaded.max_tokens == 48
    assert loaded.score([("amber birch", "amber birch cedar")]).shape == (1,)
    assert {record.role for record in teacher.manifest.inputs} == {"base", "corpus", "queries", "candidates"}
    assert not [path for path in teacher.area.root.iterdir() if path.name.startswith("_")], "scratch is gone"
    again = Watch()
    assert train_teacher(world.config(), again).digest == teacher.digest
    assert again.notes == [] and "already made" in again.said[0]


@pytest.mark.slow
def test_two_workers_one_of_them_lost_make_the_teacher_that_one_makes(world: World, other_store: str) -> None:
    killed: list[int] = []

    def kill_after_a_checkpoint() -> None:
        if watch.done >= 6 and not killed:
            for process in psutil.Process().children(recursive=True):
                if "TrainWorker" in " ".join(process.cmdline()) and not killed:
                    killed.append(process.pid)
                    process.kill()

    watch = Watch(kill_after_a_checkpoint)
    two = train_teacher(world.config(other_store, resources={"workers": 2, "threads": 1}), watch)
    assert killed
    assert two.key == world.teacher.key
    ours = weights(two)
    for name, tensor in weights(world.teacher).items():
        # Attention does not depend on key.bias, nor a comparison of logits on the head's: their gradients are rounding noise, which Adam
        # blows up to full steps.
        if not name.endswith(("key.bias", "classifier.bias")):
            torch.testing.assert_close(ours[name], tensor, atol=2e-3, rtol=0, msg=name)


DRIVER = """
import sys, time
import retort.teaching.loop as loop
from retort.teaching.train import TrainTeacherConfig, train_teacher

def slow(settings, link):
    step = loop.TeacherTrainer.step
    def later(self):
        time.sleep(0.2)
        return step(self)
    loop.TeacherTrainer.step = later
    try:
        plain(settings, link)
    finally:
        loop.TeacherTrainer.step = step

plain, loop.teach = loop.teach, slow
train_teacher(TrainTeacherConfig.model_validate_json(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_killed_driver_is_gone_on_from_with_the_same_digest(world: World, other_store: str) -> None:
    settings = world.config(other_store)
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, settings.model_dump_json()], start_new_session=True)
    deadline = time.monotonic() + 200
    while not list(Path(other_store).glob("teacher/*/_scratch/**/state.json")):
        assert driver.poll() is None, "the driver ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.05)
    time.sleep(1)  # the checkpoint is registered after its files are there
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert not list(Path(other_store).glob("teacher/*/manifest.json"))

    watch = Watch()
    finished = train_teacher(settings, watch)
    assert finished.digest == world.teacher.digest
    # 16 steps and 4 evaluations are 20 reports.
    assert len(watch.notes) < 20, "the steps before the checkpoint are not done again"


def test_a_loss_that_is_not_a_number_stops_the_run_and_says_where(world: World, other_store: str) -> None:
    with pytest.raises(NotFiniteError, match=r"step \d+.*last good checkpoint is kept in .*_scratch"):
        train_teacher(world.config(other_store, learning_rate=1e30, clip_norm=1e30))
