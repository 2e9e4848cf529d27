"""The training loop in one process without Ray: from artefacts to a checkpoint that goes on exactly."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.models.cross_encoder import CrossEncoder
from retort.models.fakes import tiny_encoder
from retort.models.imports import encoder_artefact
from retort.models.pairs import PairCutter
from retort.runtime.loop import WorkerLink
from retort.store import Artefact, Store
from retort.teaching import trainer
from retort.teaching.fakes import SMALL_WORDS, publish_small_world
from retort.teaching.loop import DATA_FOLDER, teach
from retort.teaching.pairs import PairLayout, tokenise
from retort.teaching.prepare import HeldOut, prepare
from retort.teaching.trainer import MEASURE, NotFiniteError
from retort.teaching.training_set import TrainingSet


@pytest.fixture
def base(store: Store, tmp_path: Path) -> Artefact:
    return encoder_artefact(str(tiny_encoder(tmp_path / "base", SMALL_WORDS)), store)


@pytest.fixture
def settings(store: Store, base: Artefact) -> dict[str, Any]:
    """What `train_teacher` gives the loop, over the small world."""
    world = publish_small_world(store, passages=30, queries=24)
    tokenizer = CrossEncoder.from_encoder(base.local(), seed=1).tokenizer
    data = prepare(
        candidates=world["candidates"], queries=QuerySet.open(world["queries"]), passages=Passages.open(world["corpus"]),
        tokenizer=tokenizer, max_tokens=40, held_out=HeldOut(4, 5, 1),
    )  # fmt: skip
    draft = store.draft("teacher", "t", step="test", config={})
    data.save(draft.area.root / DATA_FOLDER)
    course = {
        "steps": 8, "batch_queries": 6, "negatives": 2, "random_negatives": 1, "loss": "listwise", "learning_rate": 3e-3,
        "head_learning_rate": 3e-3, "weight_decay": 0.01, "warmup_share": 0.1, "clip_norm": 1.0, "evaluate_every": 3, "patience": 5,
        "seed": 1, "micro_batch_tokens": 512, "precision": "fp32",
    }  # fmt: skip
    return {"base": base, "frozen": [], "dropout": 0.1, "course": course, "area": draft.area, "max_tokens": 40}


def test_the_loop_reports_each_step_and_checkpoints_each_evaluation(settings: dict[str, Any], tmp_path: Path) -> None:
    link = WorkerLink(folder=tmp_path / "checkpoint")
    teach(settings, link)
    assert [report["step"] for report in link.reports if MEASURE not in report] == list(range(1, 9))
    assert [report["step"] for report in link.reports if MEASURE in report] == [3, 6, 8]
    best = load_file(tmp_path / "checkpoint" / "best.safetensors")
    module = CrossEncoder.from_encoder(settings["base"].local(), seed=1).model
    module.load_state_dict(best)


def test_a_loop_cut_off_between_checkpoints_ends_as_if_it_had_not_been(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    whole = WorkerLink(folder=tmp_path / "whole")
    teach(settings, whole)

    class CutOff(WorkerLink):
        def report(self, metrics: Any) -> None:
            super().report(metrics)
            if metrics["step"] == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach(settings, CutOff(folder=tmp_path / "cut"))
    again = WorkerLink(folder=tmp_path / "cut")
    teach(settings, again)
    assert again.reports[0]["step"] == 4, "from the checkpoint of step 3"
    for name in ("weights.safetensors", "best.safetensors", "state.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_embeddings_can_stay_as_they_are(settings: dict[str, Any], tmp_path: Path) -> None:
    teach({**settings, "frozen": ["embeddings"]}, WorkerLink(folder=tmp_path / "c"))
    before = CrossEncoder.from_encoder(settings["base"].local(), seed=1).model.state_dict()
    after = load_file(tmp_path / "c" / "weights.safetensors")
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved and not any(".embeddings." in name for name in moved)


def test_a_learning_rate_out_of_bounds_is_told_with_step_and_queries(settings: dict[str, Any], tmp_path: Path) -> None:
    wild = {**settings["course"], "learning_rate": 1e30, "head_learning_rate": 1e30, "clip_norm": 1e30}
    with pytest.raises(NotFiniteError, match=r"step [1-9].*queries q\d+"):
        teach({**settings, "course": wild}, WorkerLink(folder=tmp_path / "c"))


def test_training_sees_a_pair_as_scoring_does(settings: dict[str, Any], base: Artefact) -> None:
    teacher = CrossEncoder.from_encoder(base.local(), seed=1)
    data = TrainingSet.open(settings["area"].root / DATA_FOLDER)
    cutter = PairCutter(teacher.tokenizer, 12)  # short: both texts are cut
    layout = PairLayout.of(teacher.tokenizer, 12)
    texts = ["amber birch", "cedar delta ember fjord grove heath inlet jetty knoll larch", "stone " * 30]
    tokens = tokenise(teacher.tokenizer, [texts], 12)
    for q in range(3):
        for p in range(3):
            scored = cutter.assemble(cutter.cut([(texts[q], texts[p])], False).windows[:1]).inputs
            trained = layout.assemble([(tokens[q], tokens[p])])
            assert {name: tensor.tolist() for name, tensor in trained.items()} == {
                name: tensor.tolist() for name, tensor in scored.items()
            }
    assert data.layout.max_tokens == 40


def _worker(rank: int, settings: dict[str, Any], folder: str) -> None:
    torch.set_num_threads(1)
    trainer.default_token_budget = lambda device: 60 if rank else 100_000  # type: ignore[attr-defined]
    meet, patience = f"file://{folder}/meet", timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=2, timeout=patience)
    try:
        link = WorkerLink(folder=Path(folder) / "checkpoint" if rank == 0 else None, rank=rank, world_size=2)
        teach(settings, link)
        if rank == 0:  # it alone reports
            torch.save([report["loss"] for report in link.reports], Path(folder) / "losses.pt")
    finally:
        dist.destroy_process_group()


def test_workers_may_need_different_numbers_of_passes(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["dropout"] = 0.0
    mp.spawn(_worker, args=(settings, str(tmp_path)), nprocs=2)
    alone = WorkerLink()
    teach(settings, alone)
    losses = torch.load(tmp_path / "losses.pt", weights_only=True)
    assert losses == pytest.approx([report["loss"] for report in alone.reports], rel=2e-3)
