"""The word level on a map of two query words by three passage words, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from retort.distillation.word_level import student_word_maps, two_way_loss, word_loss
from retort.models.alignment import pooling_matrices


def matrices(*words: list[int], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pooling matrices from the word of each token, -1 for none."""
    ranges = [np.array([(w, w + 1) if w >= 0 else (0, 0) for w in text], dtype=np.int32) for text in words]
    return pooling_matrices(ranges, width=width)


def states_with_scores(scores: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Query and passage states whose Hq Hp^T / sqrt(d) are exactly `scores`."""
    table = torch.tensor([scores], dtype=torch.float64)  # [1, query tokens, passage tokens]
    dim = table.shape[2]
    return table * math.sqrt(dim), torch.eye(dim, dtype=torch.float64).unsqueeze(0)


def test_student_map_of_two_by_three_words() -> None:
    # exp(scores): [[1, 2, 1], [3, 1, 4]]
    query, passage = states_with_scores([[0, math.log(2), 0], [math.log(3), 0, math.log(4)]])
    forward, backward = student_word_maps(query, passage, matrices([0, 1], width=2), matrices([0, 1, 2], width=3))
    torch.testing.assert_close(
        forward[0], torch.tensor([[1, 2, 1], [3, 1, 4]], dtype=torch.float64) / torch.tensor([[4], [8]])
    )
    torch.testing.assert_close(
        backward[0], torch.tensor([[1 / 4, 3 / 4], [2 / 3, 1 / 3], [1 / 5, 4 / 5]], dtype=torch.float64)
    )


def test_columns_of_a_word_are_summed_and_its_rows_averaged() -> None:
    # Query tokens: [CLS], a, a', b; passage tokens: x, ".", x', y. Words: a a' -> 0, b -> 1; x x' -> 0, y -> 1.
    query, passage = states_with_scores(
        [[9, 9, 9, 9], [0, 7, 0, math.log(2)], [0, 7, math.log(2), 0], [math.log(5), 7, math.log(3), math.log(2)]]
    )
    forward, _ = student_word_maps(query, passage, matrices([-1, 0, 0, 1], width=2), matrices([0, -1, 0, 1], width=2))
    # Rows a: (1+1, 2)/4 and a': (1+2, 1)/4, mean (5/8, 3/8); row b: (5+3, 2)/10.
    torch.testing.assert_close(forward[0], torch.tensor([[5 / 8, 3 / 8], [8 / 10, 2 / 10]], dtype=torch.float64))


def compact(rows: list[list[tuple[int, float]]], rest: list[float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    k = max(len(row) for row in rows)
    index, weight = torch.full((1, len(rows), k), -1), torch.zeros(1, len(rows), k, dtype=torch.float64)
    for r, row in enumerate(rows):
        for i, (column, value) in enumerate(row):
            index[0, r, i], weight[0, r, i] = column, value
    return index, weight, torch.tensor([rest], dtype=torch.float64)


STUDENT = torch.tensor([[[1 / 4, 1 / 2, 1 / 4], [3 / 8, 1 / 8, 1 / 2]]], dtype=torch.float64)


def test_word_loss_of_the_full_map_by_hand() -> None:
    index, weight, rest = compact([[(0, 0.5), (1, 0.25), (2, 0.25)], [(2, 0.5), (0, 0.375), (1, 0.125)]], [0, 0])
    loss = word_loss(STUDENT, index, weight, rest)
    # First row: 1/2 log 2 + 1/4 log 1/2 + 1/4 log 1; the second agrees; mean of the two.
    assert loss.item() == pytest.approx((0.5 * math.log(2) - 0.25 * math.log(2)) / 2, rel=1e-6)


def test_the_remainder_is_one_entry() -> None:
    index, weight, rest = compact([[(1, 0.7)], [(0, 0.5)]], [0.3, 0.5])
    loss = word_loss(STUDENT, index, weight, rest)
    first = 0.7 * math.log(0.7 / 0.5) + 0.3 * math.log(0.3 / 0.5)
    second = 0.5 * math.log(0.5 / 0.375) + 0.5 * math.log(0.5 / 0.625)
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_top_k_loses_no_more_than_it_must() -> None:
    """By the log-sum inequality the bucket can only lower the divergence, and k = all words gives the full one."""
    generator = torch.Generator().manual_seed(5)
    teacher = torch.rand(1, 4, 9, generator=generator, dtype=torch.float64)
    teacher = teacher / teacher.sum(-1, keepdim=True)
    student = torch.rand(1, 4, 9, generator=generator, dtype=torch.float64).softmax(-1)
    full = (teacher * (teacher / student).log()).sum(-1).mean()
    losses = []
    for k in (1, 3, 8, 9):
        weight, index = teacher.topk(k, dim=-1)
        losses.append(word_loss(student, index, weight, 1 - weight.sum(-1)).item())
    assert losses == sorted(losses)
    assert losses[-2] == pytest.approx(full.item(), rel=1e-5)  # one word left over is its own bucket
    assert losses[-1] == pytest.approx(full.item(), rel=1e-5)


def test_rows_that_either_side_lacks_are_left_out_of_the_mean() -> None:
    index, weight, rest = compact([[(1, 0.7)], [(0, 0.5)], [(0, 1.0)]], [0.3, 0.5, 0])
    weight[0, 1], rest[0, 1] = 0, 0  # the teacher lost this row (all its words are cut)
    student = torch.cat([STUDENT, torch.zeros(1, 1, 3, dtype=torch.float64)], dim=1)  # the student has no third word
    loss = word_loss(student, index, weight, rest)
    assert loss.item() == pytest.approx(0.7 * math.log(0.7 / 0.5) + 0.3 * math.log(0.3 / 0.5), rel=1e-6)


def test_a_pair_without_rows_or_columns_costs_nothing_and_has_a_finite_gradient() -> None:
    query, passage = torch.randn(1, 2, 4, requires_grad=True), torch.randn(1, 3, 4)
    forward, _ = student_word_maps(query, passage, matrices([0, 1], width=2), matrices([-1, -1, -1], width=1))
    loss = word_loss(forward, *compact([[(0, 1.0)], [(0, 1.0)]], [0, 0]))
    loss.sum().backward()
    assert loss.item() == 0
    assert query.grad is not None and torch.isfinite(query.grad).all()


def test_gradient_is_that_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(6)
    query = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    passage = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    query_words = matrices([-1, 0, 1], [0, 0, -1], width=2)
    passage_words = matrices([-1, 0, 0, 1, 2], [0, 1, 2, 2, -1], width=3)
    index, weight, rest = compact([[(1, 0.7)], [(0, 0.5)]], [0.3, 0.5])

    def loss(q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        forward, backward = student_word_maps(q, p, query_words, passage_words, temperature=1.5)
        targets = index.repeat(2, 1, 1), weight.repeat(2, 1, 1), rest.repeat(2, 1)
        return two_way_loss(forward, backward, *targets, torch.tensor([[0, 2], [1, -1]]), row_weight)

    row_weight = torch.tensor([[[0.2, 0.8], [0.6, 0.4]], [[1.0, 0.0], [0.5, 0.5]]], dtype=torch.float64)
    assert torch.autograd.gradcheck(loss, (query, passage))


def test_both_directions_count_alike() -> None:
    backward = torch.tensor([[[1 / 4, 3 / 4], [2 / 3, 1 / 3], [1 / 5, 4 / 5]]], dtype=torch.float64)
    index, weight, rest = compact([[(1, 0.7)], [(0, 0.5)]], [0.3, 0.5])
    rows, row_weight = torch.tensor([[2, -1]]), torch.tensor([[[0.5, 0.5], [0.9, 0.1]]], dtype=torch.float64)
    there = word_loss(STUDENT, index, weight, rest).item()
    back = 0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8)  # of passage word 2; the padded row does not count
    assert two_way_loss(STUDENT, backward, index, weight, rest, rows, row_weight).item() == pytest.approx(
        (there + back) / 2, rel=1e-6
    )
