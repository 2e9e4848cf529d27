"""The teacher's losses, against values worked out by hand and an independent formula."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from retort.teaching.losses import LOSSES, listwise_loss, pairwise_loss


def test_listwise_loss_of_equal_logits_is_the_log_of_the_list_length() -> None:
    loss = listwise_loss(torch.zeros(1, 4), torch.ones(1, 4, dtype=torch.bool))
    assert loss.tolist() == pytest.approx([math.log(4)])


def test_listwise_loss_equals_cross_entropy_of_class_zero() -> None:
    logits = torch.tensor([[2.0, 1.0, -1.0], [0.0, 3.0, 0.5]])
    expected = F.cross_entropy(logits, torch.zeros(2, dtype=torch.long), reduction="none")
    assert torch.allclose(listwise_loss(logits, torch.ones(2, 3, dtype=torch.bool)), expected)


def test_pairwise_loss_is_the_mean_over_negatives_worked_out_by_hand() -> None:
    logits = torch.tensor([[1.0, 0.0, 3.0]])
    expected = (math.log1p(math.exp(-1.0)) + math.log1p(math.exp(2.0))) / 2
    assert pairwise_loss(logits, torch.ones(1, 3, dtype=torch.bool)).tolist() == pytest.approx([expected])


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_padded_column_changes_neither_loss_nor_gradient(name: str) -> None:
    loss = LOSSES[name]
    short = torch.tensor([[1.0, 0.5]], requires_grad=True)
    padded = torch.tensor([[1.0, 0.5, float("nan")]], requires_grad=True)
    loss(short, torch.tensor([[True, True]])).sum().backward()
    loss(padded, torch.tensor([[True, True, False]])).sum().backward()
    assert short.grad is not None and padded.grad is not None
    assert torch.allclose(short.grad, padded.grad[:, :2])
    assert padded.grad[0, 2] == 0.0


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_list_without_negatives_teaches_nothing(name: str) -> None:
    logits = torch.tensor([[5.0, 0.0]], requires_grad=True)
    loss = LOSSES[name](logits, torch.tensor([[True, False]]))
    loss.sum().backward()
    assert loss.item() == 0.0
    assert logits.grad is not None and torch.all(logits.grad == 0.0)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_losses_are_float32_for_bfloat16_logits(name: str) -> None:
    logits = torch.tensor([[1.0, 0.5]], dtype=torch.bfloat16)
    assert LOSSES[name](logits, torch.ones(1, 2, dtype=torch.bool)).dtype == torch.float32
