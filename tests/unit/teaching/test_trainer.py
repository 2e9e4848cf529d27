"""Training steps: what they learn, that they resume exactly, and that neither batching nor workers change the sum."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from retort.teaching.groups import ragged
from retort.teaching.pairs import PairLayout
from retort.teaching.trainer import Course, NotFiniteError, TeacherTrainer
from retort.teaching.training_set import TrainingSet

CLS, SEP, WORDS = 1, 2, 40
LAYOUT = PairLayout(prefix=(CLS,), middle=(SEP,), suffix=(SEP,), types=(0, 0, 0, 1, 1), pad=0, max_tokens=24)
COURSE = Course(
    steps=40, batch_queries=8, negatives=3, random_negatives=0, loss="listwise", learning_rate=5e-2, head_learning_rate=5e-2, weight_decay=0.0,
    warmup_share=0.1, clip_norm=1.0, evaluate_every=10, patience=3, seed=5, micro_batch_tokens=100_000, precision="fp32",
)  # fmt: skip


class Overlap(nn.Module):
    """A cross-encoder in miniature: embeds tokens, sums query-passage similarities; word 4 + i answers word 4 + i."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embeddings = nn.Embedding(WORDS, 8)
        self.classifier = nn.Linear(8, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> SimpleNamespace:
        real = (attention_mask * (input_ids > 3)).unsqueeze(-1)  # [batch, tokens, 1]
        states = self.dropout(self.embeddings(input_ids)) * real
        kinds = token_type_ids.unsqueeze(-1)
        query, passage = (states * (1 - kinds)).sum(1), (states * kinds).sum(1)  # [batch, 8]
        return SimpleNamespace(logits=self.classifier(query * passage))


@pytest.fixture
def data() -> TrainingSet:
    generator = np.random.default_rng(0)
    topics = np.concatenate([generator.permutation(np.arange(4, WORDS))[:24]] * 2)[
        :30
    ]  # held-out queries ask for known words
    queries = [[int(topic)] for topic in topics]
    passages = [[int(topic)] * int(generator.integers(1, 6)) for topic in range(4, WORDS)]
    others = [[p for p in range(len(passages)) if p != topic - 4] for topic in topics]
    return TrainingSet(
        query_tokens=ragged(queries),
        passage_tokens=ragged(passages),
        positives=ragged([[int(topic) - 4] for topic in topics[:24]]),
        pool=ragged(others[:24]),
        held_out=ragged([[int(topic) - 4, *other[:10]] for topic, other in zip(topics[24:], others[24:], strict=True)]),
        grades=ragged([[1] + [0] * 10 for _ in topics[24:]]),
        query_ids=[f"q{i}" for i in range(30)],
        layout=LAYOUT,
    )


def run(trainer: TeacherTrainer, steps: int) -> list[float]:
    return [trainer.step() for _ in range(steps)]


def weights(trainer: TeacherTrainer) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in trainer._module.parameters()])


def gradients(trainer: TeacherTrainer) -> list[Tensor]:
    return [parameter.grad for parameter in trainer._module.parameters() if parameter.grad is not None]


def test_training_lowers_the_loss_and_raises_held_out_ndcg(data: TrainingSet) -> None:
    trainer = TeacherTrainer(Overlap(), data, COURSE)
    before = trainer.evaluate()
    losses = run(trainer, 40)
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert trainer.evaluate() > before + 0.2
    assert trainer.finished


@pytest.mark.parametrize("loss", ["listwise", "pairwise"])
def test_micro_batches_do_not_change_the_step(data: TrainingSet, loss: str) -> None:
    course = dataclasses.replace(COURSE, loss=loss)
    whole = TeacherTrainer(Overlap(), data, course)
    cut = TeacherTrainer(Overlap(), data, dataclasses.replace(course, micro_batch_tokens=30))
    assert whole.step() == pytest.approx(cut.step(), rel=1e-5)
    for expected, found in zip(gradients(whole), gradients(cut), strict=True):
        assert torch.allclose(expected, found, atol=1e-6)


def test_ranks_together_sum_to_the_gradient_of_one_process(data: TrainingSet) -> None:
    course = dataclasses.replace(COURSE, clip_norm=1e9)
    whole = TeacherTrainer(Overlap(), data, course)
    whole.step()
    shares = []
    for rank in range(3):
        one = TeacherTrainer(Overlap(), data, course, rank=rank, world=3)
        one._sum_over_workers = lambda value: value  # type: ignore[method-assign]
        one.step()
        shares.append(gradients(one))
    for expected, parts in zip(gradients(whole), zip(*shares, strict=True), strict=True):
        # Data parallelism averages over workers.
        assert torch.allclose(torch.stack(parts).mean(0), expected, atol=1e-6)


def test_a_run_taken_up_from_a_checkpoint_equals_an_unbroken_one(data: TrainingSet, tmp_path: Path) -> None:
    unbroken = TeacherTrainer(Overlap(dropout=0.3), data, COURSE)
    losses = run(unbroken, 4)
    unbroken.record(unbroken.evaluate())
    losses += run(unbroken, 6)

    first = TeacherTrainer(Overlap(dropout=0.3), data, COURSE)
    run(first, 4)
    first.record(first.evaluate())
    first.save(tmp_path / "checkpoint")
    torch.manual_seed(99)  # whatever the new process did before
    second = TeacherTrainer(Overlap(dropout=0.3), data, COURSE)
    second.load(tmp_path / "checkpoint")
    assert run(second, 6) == losses[4:]
    assert torch.equal(weights(second), weights(unbroken))
    assert second.state == unbroken.state


def test_dropout_differs_between_steps(data: TrainingSet) -> None:
    frozen_course = dataclasses.replace(COURSE, learning_rate=1e-30, head_learning_rate=1e-30, batch_queries=24)
    trainer = TeacherTrainer(Overlap(dropout=0.5), data, frozen_course)
    assert len(set(run(trainer, 3))) == 3


def test_the_best_weights_are_kept_when_later_ones_are_worse(data: TrainingSet, tmp_path: Path) -> None:
    trainer = TeacherTrainer(Overlap(), data, dataclasses.replace(COURSE, patience=2))
    trainer.record(0.9)
    best = {name: tensor.clone() for name, tensor in trainer._module.state_dict().items()}
    run(trainer, 2)
    trainer.record(0.5)
    assert not trainer.finished
    trainer.record(0.6)
    assert trainer.finished and trainer.state.best_ndcg == 0.9 and trainer.state.best_step == 0
    trainer.save(tmp_path)
    again = TeacherTrainer(Overlap(), data, COURSE)
    again.load(tmp_path)
    assert again._best is not None
    assert all(torch.equal(again._best[name], tensor) for name, tensor in best.items())


def test_a_loss_that_is_not_a_number_stops_before_the_weights_are_spoilt(data: TrainingSet) -> None:
    trainer = TeacherTrainer(Overlap(), data, COURSE)
    run(trainer, 2)
    before = weights(trainer).clone()
    batch = trainer._sampler.batch(2)
    poisoned = int(batch.queries[0])
    token = int(data.query_tokens[poisoned][0])
    with torch.no_grad():
        trainer._module.embeddings.weight[token] = float("nan")
    with pytest.raises(NotFiniteError, match=r"step 2.*q\d+") as caught:
        trainer.step()
    assert re.search(rf"\bq{poisoned}\b", str(caught.value))
    assert torch.equal(
        torch.nan_to_num(weights(trainer), nan=7.0).ne(before), torch.nan_to_num(weights(trainer), nan=7.0) == 7.0
    )


def test_evaluation_is_ndcg_worked_out_by_hand(data: TrainingSet) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Linear(1, 1)

        def forward(self, input_ids: Tensor, **_: Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=-input_ids[:, 3].float().unsqueeze(-1))  # the passage's word: lowest first

    one = dataclasses.replace(data, held_out=ragged([[2, 0, 1]]), grades=ragged([[1, 0, 0]]))
    assert TeacherTrainer(Constant(), one, COURSE).evaluate() == pytest.approx(1 / np.log2(4))


def test_a_training_set_survives_the_disk(data: TrainingSet, tmp_path: Path) -> None:
    assert not TrainingSet.exists(tmp_path)
    empty_pool = dataclasses.replace(data, pool=ragged([[] for _ in range(24)]))
    empty_pool.save(tmp_path)
    again = TrainingSet.open(tmp_path)
    assert TrainingSet.exists(tmp_path)
    assert again.layout == data.layout and again.query_ids == data.query_ids
    assert [again.positives[i].tolist() for i in range(24)] == [data.positives[i].tolist() for i in range(24)]
    assert len(again.pool) == 24 and again.pool.lengths().sum() == 0
