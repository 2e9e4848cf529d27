"""A step learns the same however it is cut; a run goes on exactly; what goes wrong is said."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from retort.corpus.queries import QuerySet
from retort.distillation.collate import Chunk, StepInput
from retort.distillation.fakes import small_course, small_dev_pool, small_trainer, small_training_set
from retort.distillation.towers import EncodedChunk
from retort.distillation.trainer import DistilTrainer
from retort.models.dual_encoder import DualEncoder
from retort.models.fakes import tiny_encoder
from retort.models.judgements import Judgements
from retort.store import Artefact, open_store
from retort.teaching.fakes import SMALL_WORDS
from retort.teaching.trainer import NotFiniteError

World = dict[str, Artefact]


def gradients(trainer: DistilTrainer) -> dict[str, torch.Tensor]:
    """Of the last step, as the optimiser got them."""
    return {name: p.grad for name, p in trainer._student.model.named_parameters() if p.grad is not None}


def weights(trainer: DistilTrainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer._student.model.state_dict().items()}


def assert_close(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys() and left
    # Of the largest gradient: some are zero but for rounding (a key's bias has no effect on attention).
    largest = max(float(value.abs().max()) for value in right.values())
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=1e-5 * largest, msg=name)


@pytest.mark.parametrize(
    "changes", [{}, {"pool": "own"}, {"sentence_loss": "margin"}, {"contrastive_weight": 0.0}, {"sentence_weight": 0.0}]
)
def test_gradient_caching_changes_no_gradient(world: World, tmp_path: Path, changes: dict[str, Any]) -> None:
    # No clipping: it would hide a wrong scale.
    numbers = small_course(clip_norm=1e9, **changes)
    with (
        small_trainer(world, tmp_path / "base", numbers) as whole,
        small_trainer(
            world, tmp_path / "base", small_course(clip_norm=1e9, chunk_tokens=80, forward_tokens=60, **changes)
        ) as cached,
    ):
        reports = [whole.step(), cached.step()]
        assert len(whole._collator(whole._sampler.batch(0)).chunks) == 1
        assert len(cached._collator(cached._sampler.batch(0)).chunks) > 2
        assert_close(gradients(cached), gradients(whole))
        for part in ("contrastive", "sentence", "word"):
            assert reports[1][part] == pytest.approx(reports[0][part], rel=1e-4, abs=1e-6)
            # The word level is computed, though not weighted, only where it has a weight.
        assert reports[0]["word"] > 0


def test_each_level_moves_the_weights_its_own_way(world: World, tmp_path: Path) -> None:
    found = []
    for level in ("contrastive", "sentence", "word"):
        zero = dict.fromkeys(("contrastive_weight", "sentence_weight", "word_weight"), 0.0)
        with small_trainer(world, tmp_path / "base", small_course(**{**zero, f"{level}_weight": 1.0})) as trainer:
            report = trainer.step()
            assert report["loss"] == pytest.approx(report[level])
            found.append(torch.cat([g.reshape(-1) for g in gradients(trainer).values()]))
    assert all(float(g.norm()) > 0 for g in found)
    cosines = [
        float(torch.cosine_similarity(a, b, dim=0))
        for a, b in ((found[0], found[1]), (found[0], found[2]), (found[1], found[2]))
    ]
    assert max(cosines) < 0.95


@pytest.mark.parametrize("level", ["contrastive", "sentence", "word"])
def test_each_level_is_learnt(world: World, tmp_path: Path, level: str) -> None:
    weights = {f"{name}_weight": float(name == level) for name in ("contrastive", "sentence", "word")}
    with small_trainer(world, tmp_path / "base", small_course(steps=24, learning_rate=3e-3, **weights)) as trainer:
        curve = [trainer.step()["loss"] for _ in range(24)]
    assert np.mean(curve[-4:]) < 0.8 * np.mean(curve[:4])


def test_the_same_seed_gives_the_same_curve_and_another_seed_another(world: World, tmp_path: Path) -> None:
    curves = []
    for seed in (13, 13, 14):
        with small_trainer(world, tmp_path / "base", small_course(seed=seed), dropout=0.1) as trainer:
            curves.append([trainer.step()["loss"] for _ in range(4)])
    assert curves[0] == curves[1] != curves[2]


def test_a_run_taken_up_from_a_checkpoint_ends_with_the_same_weights(world: World, tmp_path: Path) -> None:
    numbers, dev = small_course(chunk_tokens=80), small_dev_pool(world, tmp_path / "base")
    with small_trainer(world, tmp_path / "base", numbers, dropout=0.1, dev=dev) as unbroken:
        for _ in range(8):
            unbroken.step()
            unbroken.evaluate()
    with small_trainer(world, tmp_path / "base", numbers, dropout=0.1, dev=dev) as first:
        for _ in range(3):
            first.step()
            first.evaluate()
        first.save(tmp_path / "checkpoint")
        first.step()  # lost
    with small_trainer(world, tmp_path / "base", numbers, dropout=0.1, dev=dev) as second:
        second.load(tmp_path / "checkpoint")
        while not second.finished:
            second.step()
            second.evaluate()
    for name, value in weights(unbroken).items():
        assert torch.equal(weights(second)[name], value), name
    assert second.state.curve == unbroken.state.curve
    assert second.state.history == unbroken.state.history
    assert second.state.best_step == unbroken.state.best_step


def test_the_best_weights_are_kept_and_patience_ends_the_run(world: World, tmp_path: Path) -> None:
    numbers = small_course(steps=30, learning_rate=1.0, patience=2)  # far too fast: it gets worse at once
    with small_trainer(world, tmp_path / "base", numbers, dev=small_dev_pool(world, tmp_path / "base")) as trainer:
        trainer.evaluate()
        best, kept = -1.0, None
        while not trainer.finished:
            trainer.step()
            mrr10 = trainer.evaluate()
            assert mrr10 is not None
            if mrr10 > best:
                best, kept = mrr10, weights(trainer)
        assert trainer.state.step < 30 and trainer.state.best_mrr10 == best
        assert kept is not None and trainer._best is not None
        assert all(torch.equal(trainer._best[name], kept[name]) for name in kept)


@pytest.mark.filterwarnings("ignore")
def test_a_loss_that_is_not_a_number_names_batch_and_queries_and_leaves_the_weights(
    world: World, tmp_path: Path
) -> None:
    data, _ = small_training_set(world, tmp_path / "base")
    victim = 5
    data.scores[data.judged.offsets[victim] : data.judged.offsets[victim + 1]] = np.nan
    with small_trainer(world, tmp_path / "base", small_course(), data=data) as trainer:
        before = weights(trainer)
        with pytest.raises(NotFiniteError, match=rf"batch \d+ of seed 13.*{data.query_ids[victim]}\b"):
            for _ in range(4):  # an epoch
                before = weights(trainer)
                trainer.step()
        assert all(torch.equal(value, before[name]) for name, value in weights(trainer).items())


def test_unlabelled_queries_are_learnt_from_the_teacher_alone(world: World, tmp_path: Path) -> None:
    queries = QuerySet.open(world["queries"])
    bare = QuerySet(queries.ids, queries.texts, queries.langs, queries.origins, queries.fields, {})
    data, coverage = small_training_set(world, tmp_path / "base", queries=bare)
    assert (coverage.labelled, coverage.unlabelled) == (0, 32)
    with small_trainer(world, tmp_path / "base", small_course(steps=30, learning_rate=3e-3), data=data) as trainer:
        curve = [trainer.step() for _ in range(30)]
    assert all(report["contrastive"] == 0 for report in curve)
    assert curve[-1]["sentence"] < 0.8 * curve[0]["sentence"]


def test_judgements_without_trust_teach_nothing(world: World, tmp_path: Path) -> None:
    data, _ = small_training_set(world, tmp_path / "base")
    data.trust[:] = 0
    with small_trainer(world, tmp_path / "base", small_course(contrastive_weight=0.0), data=data) as trainer:
        assert trainer.step()["loss"] == 0


def test_similar_queries_share_their_judgements(world: World, tmp_path: Path) -> None:
    """A passage drawn for one query teaches every query of the batch that has a judgement of it."""
    with small_trainer(world, tmp_path / "base", small_course(negatives=0)) as trainer:
        assert trainer.step()["sentence"] > 0


def test_data_is_made_while_the_model_computes(world: World, tmp_path: Path) -> None:
    with small_trainer(world, tmp_path / "base", small_course()) as trainer:
        made = [threading.Event() for _ in range(8)]
        make, encode = trainer._make, trainer._encode

        def noted(step: int) -> StepInput:
            given = make(step)
            made[step].set()
            return given

        def held_up(chunk: Chunk) -> EncodedChunk:
            assert made[trainer.state.step + 1].wait(timeout=60), "the next step is not made before this one is over"
            return encode(chunk)

        trainer._make, trainer._encode = noted, held_up  # type: ignore[method-assign]
        for _ in range(4):
            trainer.step()
        assert trainer.state.tokens > 0


def test_what_the_model_waits_for_its_data_is_told(world: World, tmp_path: Path) -> None:
    with small_trainer(world, tmp_path / "base", small_course()) as trainer:
        make = trainer._make

        def slow(step: int) -> StepInput:
            time.sleep(0.2)
            return make(step)

        trainer._make = slow  # type: ignore[method-assign]
        reports = [trainer.step() for _ in range(2)]
        assert reports[0]["wait_s"] >= 0.2
        assert trainer.state.wait_s == pytest.approx(sum(report["wait_s"] for report in reports))
        assert all(
            report["wait_share"] == pytest.approx(report["wait_s"] * report["examples_per_s"] / 8) for report in reports
        )


@pytest.mark.parametrize(
    "kind", [{"normalise": False}, {"prefixes": {"query": "to find: ", "passage": "text: "}}, {"pooling": "cls"}]
)
def test_encoders_of_other_kinds_learn_and_stay_what_they_are(
    world: World, tmp_path: Path, kind: dict[str, Any]
) -> None:
    base = DualEncoder.load(tiny_encoder(tmp_path / "other", SMALL_WORDS, **kind), device="cpu", precision="fp32")
    data, _ = small_training_set(world, tmp_path / "other")
    asked = QuerySet.open(world["queries"]).texts
    prefix = base.prefixes["query"]
    assert data.queries.tokens[0].tolist() == base.tokenize([asked[0]], "query")[0]
    assert (len(data.queries.tokens[0]) > 4) == bool(prefix), "two words between two special tokens, and the prefix"
    temperature = 0.05 if base.normalise else 1.0
    course = small_course(
        steps=24, learning_rate=3e-3, clip_norm=1e9, temperature=temperature, student_temperature=temperature
    )
    cut = replace(course, chunk_tokens=80, forward_tokens=60)
    with (
        small_trainer(world, tmp_path / "other", course, data=data) as whole,
        small_trainer(world, tmp_path / "other", cut, data=data) as cached,
    ):
        first = whole.step()["loss"]
        cached.step()
        assert_close(gradients(cached), gradients(whole))
        curve = [first, *(whole.step()["loss"] for _ in range(23))]
        whole._student.save(tmp_path / "student")
    assert np.mean(curve[-4:]) < 0.8 * np.mean(curve[:4])
    student = DualEncoder.load(tmp_path / "student", device="cpu", precision="fp32")
    assert student.layout == base.layout
    lengths = np.linalg.norm(student.encode(asked, "query"), axis=1)
    assert np.allclose(lengths, 1, atol=1e-5) == base.normalise


@pytest.mark.parametrize("level", ["sentence", "word"])
def test_a_judgement_teaches_as_far_as_it_is_trusted(world: World, tmp_path: Path, level: str) -> None:
    """The trust column reaches the loss: none teaches nothing, and what one judgement loses changes the gradient."""
    zero = dict.fromkeys(("contrastive_weight", "sentence_weight", "word_weight"), 0.0)
    course = small_course(clip_norm=1e9, **{**zero, f"{level}_weight": 1.0})
    data, _ = small_training_set(world, tmp_path / "base")
    generator = np.random.default_rng(3)
    uneven = generator.random(len(data.trust)).astype(np.float32)
    found = []
    for trust in (np.ones_like(data.trust), np.full_like(data.trust, 0.5), np.zeros_like(data.trust), uneven):
        with small_trainer(world, tmp_path / "base", course, data=replace(data, trust=trust)) as trainer:
            trainer.step()
            found.append(torch.cat([gradient.reshape(-1) for gradient in gradients(trainer).values()]))
    full, half, none, some = found
    assert full.norm() > 0 and none.abs().max() == 0
    torch.testing.assert_close(half, full / 2, rtol=1e-4, atol=1e-6 * float(full.abs().max()))
    assert float(torch.cosine_similarity(some, full, dim=0)) < 0.999


def test_the_trust_that_scoring_wrote_is_what_training_reads(world: World, tmp_path: Path) -> None:
    judgements = world["judgements"]
    draft = open_store().draft("judgements", "weighted", step="fake", inputs=world, config={"weighted": True})
    with draft:
        for part in judgements.parts():
            table = judgements.part(part)
            trust = pa.array(np.linspace(0, 1, table.num_rows), pa.float32())
            column = table.schema.get_field_index("trust")
            draft.write_table(part, table.set_column(column, table.schema.field(column), trust))
        weighted = draft.publish()
    data, _ = small_training_set({**world, "judgements": weighted}, tmp_path / "base")
    groups = Judgements.open(weighted)
    for i, query in enumerate(data.query_ids):
        group = groups.group(query)
        stored = dict(zip(group.passage_ids, group.trust.tolist(), strict=True))
        start, stop = data.judged.offsets[i], data.judged.offsets[i + 1]
        read = {
            data.passage_ids[row]: value
            for row, value in zip(data.judged[i], data.trust[start:stop].tolist(), strict=True)
        }
        assert read == pytest.approx(stored)


def test_a_later_round_goes_on_where_the_rate_of_the_one_before_ended(world: World, tmp_path: Path) -> None:
    """Eight steps a round without warm-up: 1/16 of the peak a step, over both."""
    rates = []
    for number in (0, 1):
        with small_trainer(world, tmp_path / "base", small_course(round=number, rounds=2, warmup_share=0.0)) as trainer:
            rates += [trainer.step()["learning_rate"] for _ in range(8)]
    assert rates == pytest.approx([1e-3 * (16 - step) / 16 for step in range(16)])
