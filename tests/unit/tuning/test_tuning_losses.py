"""The losses by hand, and what masks keep out."""

from __future__ import annotations

import math

import pytest
import torch

from retort.tuning.losses import distil_loss, infonce_loss, triplet_loss

NAN = float("nan")


def test_the_triplet_loss_is_the_mean_gap_over_negatives() -> None:
    positive = torch.tensor([0.5, 0.9])
    negatives = torch.tensor([[0.45, 0.3, NAN], [0.1, 0.2, 0.3]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    found = triplet_loss(positive, negatives, mask, margin=0.1)
    assert found.tolist() == pytest.approx([0.05 / 2, 0.0])


def test_a_query_without_negatives_has_no_loss_and_no_gradient() -> None:
    positive = torch.tensor([0.5], requires_grad=True)
    nothing = torch.zeros((1, 2), dtype=torch.bool)
    losses = [
        triplet_loss(positive, torch.zeros(1, 2), nothing, margin=0.1),
        infonce_loss(positive, torch.zeros(1, 2), nothing, temperature=0.05),
    ]
    for loss in losses:
        assert loss.tolist() == [0.0]
        (gradient,) = torch.autograd.grad(loss.sum(), positive, retain_graph=True)
        assert gradient.tolist() == [0.0]


def test_infonce_is_the_cross_entropy_of_the_positive() -> None:
    found = infonce_loss(
        torch.tensor([0.4]), torch.tensor([[0.4, 0.2, 0.1]]), torch.tensor([[False, True, True]]), temperature=0.1
    )
    parts = [math.exp(4), math.exp(2), math.exp(1)]
    assert float(found) == pytest.approx(-math.log(parts[0] / sum(parts)), rel=1e-5)


def test_a_student_that_ranks_as_the_teacher_has_no_distillation_loss() -> None:
    teacher = torch.tensor([[3.0, 1.0, -2.0]])
    mask, trust = torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 3)
    same = distil_loss(teacher * 0.05, teacher, mask, trust, temperature=0.05, teacher_temperature=1.0)
    other = distil_loss(-teacher * 0.05, teacher, mask, trust, temperature=0.05, teacher_temperature=1.0)
    assert float(same) == pytest.approx(0.0, abs=1e-6) and float(other) > 1
    assert float(distil_loss(-teacher, teacher, mask, trust * 0, temperature=0.05, teacher_temperature=1.0)) == 0.0
