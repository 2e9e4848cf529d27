"""Pooling, by hand."""

import torch

from retort.models.pooling import pool

STATES = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]]])


def test_mean_leaves_padding_out():
    assert pool(STATES, torch.tensor([[1, 1, 0]]), "mean", False).tolist() == [[2.0, 4.0]]


def test_cls_is_the_first_real_token_on_either_side_of_the_padding():
    assert pool(STATES, torch.tensor([[1, 1, 0]]), "cls", False).tolist() == [[1.0, 2.0]]
    assert pool(STATES, torch.tensor([[0, 1, 1]]), "cls", False).tolist() == [[3.0, 6.0]]


def test_normalised_vectors_have_length_one_in_float32():
    vectors = pool(STATES.bfloat16(), torch.tensor([[1, 1, 1]]), "mean", True)
    assert vectors.dtype == torch.float32
    assert torch.allclose(vectors.norm(dim=1), torch.ones(1))
