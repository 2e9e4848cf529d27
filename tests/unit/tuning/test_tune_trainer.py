"""A run learns, stops where a language falls, goes back to its best good point, and can be taken up exactly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retort.distillation.fakes import publish_judgements
from retort.errors import InputError
from retort.models.backend import pick_device, pick_precision
from retort.models.dual_encoder import DualEncoder
from retort.runtime.loop import WorkerLink
from retort.store import Artefact, open_store
from retort.store.schemas import CANDIDATE, part_name
from retort.teaching.trainer import NotFiniteError
from retort.tuning.course import State, look_steps
from retort.tuning.fakes import small_course, small_trainer, small_training_set
from retort.tuning.guard import Guard, GuardSettings, Look, prepare_guard
from retort.tuning.outcome import Outcome, trial_row
from retort.tuning.trainer import TuneTrainer

World = dict[str, Artefact]


def opened_guard(world: World, folder: Path, **settings: Any) -> Guard:
    chosen = {"least_queries": 20, "least_recall": 0.1, "margin": 0.08, "looks": 2, **settings}
    encoder = DualEncoder.load(world["encoder"].local(), device="cpu", precision="fp32")
    sets = [(world["guard"], world["embeddings"])]
    prepare_guard(GuardSettings(**chosen), sets, (world["dev"], world["embeddings"]), encoder, folder / "guard", 1)
    return Guard.open(folder / "guard")


def weights(trainer: TuneTrainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer._encoder.model.state_dict().items()}


def run(trainer: TuneTrainer, stop: int | None = None) -> TuneTrainer:
    while not trainer.finished and trainer.state.step != stop:
        trainer.step()
        if trainer.look_due:
            trainer.look()
    return trainer


def watched(world: World, guard: Guard, **changes: Any) -> TuneTrainer:
    trainer = small_trainer(world, small_course(**changes), guard=guard)
    trainer.before = guard.look(trainer._encoder)
    return trainer


@pytest.mark.parametrize("loss", ["triplet", "infonce", "distil"])
def test_each_loss_is_learnt_and_only_what_is_not_frozen_moves(world: World, loss: str) -> None:
    if loss == "distil":
        world["judgements"] = judged(world)
    with small_trainer(world, small_course(loss=loss, steps=30, learning_rate=5e-4, look_at=())) as trainer:
        before = weights(trainer)
        reports = [trainer.step() for _ in range(30)]
        assert np.mean([r["loss"] for r in reports[-6:]]) < 0.9 * np.mean([r["loss"] for r in reports[:6]])
        moved = {name for name, value in weights(trainer).items() if not torch.equal(value, before[name])}
    assert moved and not [name for name in moved if name.startswith("embeddings")]
    assert {"loss", "grad_norm", "examples_per_s", "wait_s", "wait_share", "learning_rate"} <= reports[0].keys()
    assert all(r["learning_rate"] == 5e-4 for r in reports), "a constant rate"


def judged(world: World) -> Artefact:
    """Candidates of the training queries, judged by the number of shared words."""
    import pyarrow as pa

    from retort.corpus.queries import QuerySet

    queries = QuerySet.open(world["queries"])
    rows = [
        {"query_id": query, "passage_id": f"en-us/s{(i + j) % 80}", "source": "dense", "rank": j, "score": 1.0}
        for i, query in enumerate(queries.ids)
        for j in range(6)
    ]
    store = open_store()
    draft = store.draft("candidates", "two", step="fake", inputs={"corpus": world["corpus"]})
    with draft:
        draft.write_table(part_name(0), pa.Table.from_pylist(rows, schema=CANDIDATE))
        candidates = draft.publish()
    return publish_judgements(store, {"corpus": world["corpus"], "queries": world["queries"], "candidates": candidates})


def test_queries_without_labels_learn_from_the_teacher(world: World) -> None:
    from dataclasses import replace

    from retort.corpus.queries import QuerySet

    world["judgements"] = judged(world)
    data, _ = small_training_set(world, queries=replace(QuerySet.open(world["queries"]), qrels={}))
    with small_trainer(world, small_course(loss="distil"), data=data) as trainer:
        assert trainer.step()["loss"] > 0


def test_a_batch_in_parts_has_the_gradient_of_one(world: World) -> None:
    found = []
    for tokens in (12, 10_000):
        with small_trainer(world, small_course(forward_tokens=tokens, loss="infonce")) as trainer:
            report = trainer.step()
            found.append(
                (
                    report["loss"],
                    {n: p.grad for n, p in trainer._encoder.model.named_parameters() if p.grad is not None},
                )
            )
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    largest = max(float(g.abs().max()) for g in found[1][1].values())
    for name, gradient in found[1][1].items():
        torch.testing.assert_close(found[0][1][name], gradient, rtol=0, atol=1e-5 * largest, msg=name)


def test_a_gentle_run_keeps_every_language_and_its_best_point(world: World, tmp_path: Path) -> None:
    guard = opened_guard(world, tmp_path)
    with watched(world, guard, learning_rate=1e-5, steps=24, look_at=look_steps(24, 4)) as trainer:
        run(trainer)
        state = trainer.state
        assert state.stopped_at is None and [entry["step"] for entry in state.looks] == [6, 12, 18, 24]
        targets = {entry["step"]: entry["target"] for entry in state.looks}
        assert state.best_target == max(targets.values()) == targets[state.best_step] > trainer.before.target
        trainer.save(tmp_path / "last")
    settings = {"encoder": world["encoder"], "frozen": ["embeddings"]}
    outcome = Outcome.of(tmp_path / "last", settings)
    row = trial_row(1e-5, 24, outcome)
    assert row["safe"] and not row["damaging"] and row["best_step"] == state.best_step
    assert row["target_change"] == pytest.approx(state.best_target - trainer.before.target)
    assert 0.9 < row["moved"] <= 1 and row["median_ulps"] > 1


def test_a_rough_run_ends_itself_at_the_first_look(world: World, tmp_path: Path) -> None:
    guard = opened_guard(world, tmp_path)
    with watched(world, guard, learning_rate=3e-3, steps=24, look_at=look_steps(24, 2)) as trainer:
        run(trainer)
        assert (trainer.state.step, trainer.state.stopped_at, trainer.state.best_step) == (12, 12, 0)
        assert trainer.best is None
        trainer.save(tmp_path / "last")
    row = trial_row(3e-3, 24, Outcome.of(tmp_path / "last", {"encoder": world["encoder"], "frozen": ["embeddings"]}))
    assert row["damaging"] and not row["safe"] and row["damaged"] and "Fell: " in row["summary"]


class Judge:
    """A guard whose word is given in advance: the look's target, and whether all is kept."""

    def __init__(self, guard: Guard, words: Sequence[tuple[float, bool]]) -> None:
        self._guard, self._words, self._given = guard, list(words), -1

    def look(self, encoder: DualEncoder, rank: int = 0, world: int = 1) -> Look:
        self._given += 1
        target, _ = self._words[self._given]
        look = self._guard.look(encoder)
        for line in look.lines:
            if line.kind == "target":
                line.values[:] = target
        return look

    def judge(self, before: Look, after: Look, looks: int) -> Any:
        word, judgement = self._words[self._given], self._guard.judge(before, before, looks)
        if not word[1]:
            for group in judgement.languages.values():
                object.__setattr__(group, "state", "unclear")
        return judgement


def test_the_point_returned_is_the_best_good_one_before_the_stop(world: World, tmp_path: Path) -> None:
    guard = opened_guard(world, tmp_path)
    words = [(0.4, True), (0.6, True), (0.5, True), (0.9, False), (1.0, True)]
    course = small_course(steps=10, look_at=look_steps(10, 5))
    with small_trainer(world, course, guard=Judge(guard, words)) as trainer:
        trainer.before = guard.look(trainer._encoder)
        kept: dict[int, dict[str, torch.Tensor]] = {}
        while not trainer.finished:
            trainer.step()
            kept[trainer.state.step] = weights(trainer)
            if trainer.look_due:
                trainer.look()
        state = trainer.state
        assert (state.step, state.stopped_at, state.best_step, state.best_target) == (8, 8, 4, 0.6)
        assert trainer.best is not None
        assert all(torch.equal(value, kept[4][name]) for name, value in trainer.best.items())


def test_an_unguarded_run_measures_and_never_stops(world: World, tmp_path: Path) -> None:
    guard = opened_guard(world, tmp_path)
    with watched(world, guard, learning_rate=3e-3, steps=8, guarded=False) as trainer:
        trainer.check_guard()
        assert run(trainer).state.stopped_at is None


def test_a_guard_that_can_tell_nothing_is_refused_before_the_first_step(world: World, tmp_path: Path) -> None:
    guard = opened_guard(world, tmp_path, least_queries=500)
    with (
        watched(world, guard) as trainer,
        pytest.raises(
            InputError, match=r"cannot tell of any language.*Unguarded for want of 500 queries: de \(64\), en-us \(32\)"
        ),
    ):
        trainer.check_guard()


def test_a_run_taken_up_goes_on_exactly(world: World, tmp_path: Path) -> None:
    guard = opened_guard(world, tmp_path)
    changes = {"learning_rate": 2e-6, "steps": 12, "look_at": look_steps(12, 3)}
    with watched(world, guard, **changes) as whole:
        run(whole)
        expected, looks = weights(whole), whole.state.looks
        best = dict(whole.best or {})
    with watched(world, guard, **changes) as first:
        run(first, stop=7)
        first.save(tmp_path / "checkpoint")
    with small_trainer(world, small_course(**changes), guard=guard) as second:
        second.load(tmp_path / "checkpoint")
        assert second.state.step == 7 and second.before is not None
        run(second)
        assert second.state.looks == looks
        assert all(torch.equal(value, expected[name]) for name, value in weights(second).items())
        assert all(torch.equal(value, best[name]) for name, value in (second.best or {}).items())


def test_a_loss_that_is_no_number_is_told_and_moves_nothing(world: World) -> None:
    with small_trainer(world, small_course(learning_rate=1e30, look_at=())) as trainer:
        with pytest.raises(NotFiniteError, match=r"step \d+ .*learning rate of 1e\+30"):
            run(trainer)


def test_looks_are_evenly_spaced_and_end_with_the_run() -> None:
    assert look_steps(10, 4) == (2, 5, 8, 10) and look_steps(3, 3) == (1, 2, 3) and look_steps(100, 1) == (100,)


def test_the_loop_runs_in_one_process_and_reports_as_it_goes(world: World, tmp_path: Path) -> None:
    from dataclasses import asdict

    from retort.store.files import FileArea
    from retort.tuning.loop import tune_queries
    from retort.tuning.prepare_run import DATA_FOLDER, GUARD_FOLDER

    area = FileArea(str(tmp_path / "draft"))
    small_training_set(world)[0].save(area.root / DATA_FOLDER)
    opened_guard(world, tmp_path)
    (tmp_path / "guard").rename(area.root / DATA_FOLDER / GUARD_FOLDER)
    settings = {
        "encoder": world["encoder"], "embeddings": world["embeddings"], "frozen": ["embeddings"], "dropout": 0.0,
        "course": asdict(small_course(learning_rate=1e-6, precision="auto", forward_tokens=None)), "area": area, "max_query_tokens": 32, "checkpoint_steps": None,
        "checkpoint_minutes": 5.0,
    }  # fmt: skip
    link = WorkerLink(folder=tmp_path / "checkpoint")
    tune_queries(settings, link)
    steps = [report["step"] for report in link.reports if "loss" in report]
    looks = [report for report in link.reports if "target" in report]
    assert steps == list(range(1, 9)) and [look["step"] for look in looks] == [0, 4, 8]
    assert all(look["all_kept"] for look in looks[1:])
    state = State(**json.loads((tmp_path / "checkpoint" / "state.json").read_text()))
    device = pick_device()
    assert state.precision == pick_precision(device, "auto"), "what the driver left to the worker's machine"
    assert state.step == 8 and area.exists(f"_looks/before-{device.type}-{state.precision}.json")
