"""Sentence-level losses against values worked out by hand and against torch's own."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from retort.distillation.losses import contrastive_loss, sentence_kl, sentence_margin


def mask(rows: list[list[int]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.bool)


def test_contrastive_loss_of_one_positive_is_cross_entropy() -> None:
    scores = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    loss = contrastive_loss(
        scores[:, :1], torch.ones(5, 1, dtype=torch.bool), scores[:, 1:], torch.ones(5, 6, dtype=torch.bool)
    )
    torch.testing.assert_close(loss, F.cross_entropy(scores, torch.zeros(5, dtype=torch.long), reduction="none"))


def test_each_positive_stands_alone_against_the_negatives() -> None:
    positives, negatives = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 2.0]])
    both = contrastive_loss(positives, mask([[1, 1]]), negatives, mask([[1, 1]]))
    each = [-math.log(math.exp(s) / (math.exp(s) + 1 + math.exp(2))) for s in (1, 3)]
    assert both.item() == pytest.approx(sum(each) / 2, rel=1e-6)


def test_masked_scores_reach_neither_loss_nor_gradient() -> None:
    negatives = torch.tensor([[0.5, float("nan"), float("inf")]], requires_grad=True)
    positives = torch.tensor([[1.0, float("nan")]], requires_grad=True)
    loss = contrastive_loss(positives, mask([[1, 0]]), negatives, mask([[1, 0, 0]]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-0.5)), rel=1e-6)
    assert negatives.grad is not None and negatives.grad[0, 1:].tolist() == [0, 0]
    assert torch.isfinite(negatives.grad).all()


@pytest.mark.parametrize(("has_positive", "has_negative"), [(0, 1), (1, 0), (0, 0)])
def test_a_query_without_positives_or_negatives_costs_nothing(has_positive: int, has_negative: int) -> None:
    positives, negatives = torch.ones(1, 1, requires_grad=True), torch.ones(1, 2, requires_grad=True)
    loss = contrastive_loss(positives, mask([[has_positive]]), negatives, mask([[has_negative] * 2]))
    loss.sum().backward()
    assert loss.item() == 0
    assert positives.grad is not None and positives.grad.abs().sum() == 0
    assert negatives.grad is not None and negatives.grad.abs().sum() == 0


def test_sentence_kl_is_torch_kl_when_all_is_trusted() -> None:
    generator = torch.Generator().manual_seed(2)
    student, teacher = torch.randn(4, 6, generator=generator), torch.randn(4, 6, generator=generator)
    ones = torch.ones(4, 6)
    loss = sentence_kl(student, teacher, ones.bool(), ones)
    expected = F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(loss, expected)


def test_sentence_kl_by_hand() -> None:
    # Teacher (1/4, 3/4), student (1/2, 1/2): 1/4 log 1/2 + 3/4 log 3/2.
    teacher = torch.tensor([[0.0, math.log(3.0)]])
    loss = sentence_kl(torch.zeros(1, 2), teacher, mask([[1, 1]]), torch.ones(1, 2))
    assert loss.item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), rel=1e-6)


def test_an_untrusted_candidate_is_as_good_as_absent() -> None:
    student, teacher = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[2.0, 0.0, -9.0]])
    trust = torch.tensor([[1.0, 1.0, 0.0]])
    distrusted = sentence_kl(student, teacher, mask([[1, 1, 1]]), trust)
    absent = sentence_kl(student, teacher, mask([[1, 1, 0]]), torch.ones(1, 3))
    # The same divergence, in a list whose mean trust is 2/3.
    assert distrusted.item() == pytest.approx(absent.item() * 2 / 3, rel=1e-6)


def test_partly_trusted_lists_cost_nothing_where_the_student_agrees() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0]])
    trust = torch.tensor([[0.9, 0.2, 0.5]])
    assert sentence_kl(scores + 4, scores, mask([[1, 1, 1]]), trust).item() == pytest.approx(0, abs=1e-6)
    assert sentence_kl(scores * 2, scores, mask([[1, 1, 1]]), trust).item() > 0


@pytest.mark.parametrize("columns", [[0, 0, 0], [1, 0, 0]])
@pytest.mark.parametrize("loss", [sentence_kl, sentence_margin])
def test_lists_of_fewer_than_two_judgements_cost_nothing(loss, columns: list[int]) -> None:
    student = torch.randn(1, 3, requires_grad=True)
    value = loss(student, torch.tensor([[1.0, float("nan"), float("nan")]]), mask([columns]), torch.ones(1, 3))
    value.sum().backward()
    assert value.item() == 0
    assert student.grad is not None and student.grad.abs().sum() == 0


def test_margin_by_hand() -> None:
    # Margins 2 and 3 of the student, 1 and 5 of the teacher; the second pair is trusted by a half.
    student, teacher = torch.tensor([[4.0, 2.0, 1.0]]), torch.tensor([[6.0, 5.0, 1.0]])
    loss = sentence_margin(student, teacher, mask([[1, 1, 1]]), torch.tensor([[1.0, 1.0, 0.5]]))
    assert loss.item() == pytest.approx((1 + 0.5 * 4) / 2)


def test_losses_are_float32_whatever_comes_in() -> None:
    ones = torch.ones(2, 3, dtype=torch.bfloat16)
    assert sentence_kl(ones, ones, ones.bool(), ones).dtype == torch.float32
    assert contrastive_loss(ones, ones.bool(), ones, ones.bool()).dtype == torch.float32


def test_gradients_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    there = mask([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]])
    trust = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    teacher = random(3, 4).detach()
    assert torch.autograd.gradcheck(lambda s: sentence_kl(s, teacher, there, trust), (random(3, 4),))
    assert torch.autograd.gradcheck(lambda s: sentence_margin(s, teacher, there, trust), (random(3, 4),))
    positive = mask([[1, 0], [1, 1], [0, 0]])
    assert torch.autograd.gradcheck(lambda p, n: contrastive_loss(p, positive, n, there), (random(3, 2), random(3, 4)))
