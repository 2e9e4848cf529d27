"""Gradient caching gives the gradients of the batch in one piece, dropout included."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from retort.distillation.caching import RandomState, backward_in_chunks


@dataclass
class Out:
    vectors: Tensor
    states: Tensor


class Net(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.dropout = nn.Linear(5, 8), nn.Linear(8, 4), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Out:
        states = self.dropout(torch.tanh(self.first(x)))
        return Out(nn.functional.normalize(self.second(states), dim=-1), states)


def whole_loss(vectors: list[Tensor]) -> Tensor:
    x = torch.cat(vectors)
    return nn.functional.cross_entropy(x @ x.T / 0.05, torch.arange(len(x)).roll(1))


def gradients(net: Net) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]


def run(net: Net, chunks: list[Tensor], cached: bool = True) -> list[Tensor]:
    net.zero_grad()
    backward_in_chunks(
        chunks,
        net,
        whole_loss,
        lambda chunk, out: out.states.square().sum(),
        cached=cached,
        device=torch.device("cpu"),
    )
    return gradients(net)


@pytest.mark.parametrize(("sizes", "cached"), [([12], False), ([12], True), ([4, 4, 4], True), ([7, 1, 4], True)])
def test_chunks_give_the_gradients_of_one_piece(sizes: list[int], cached: bool) -> None:
    net = Net(dropout=0.0)
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    out = net(x)
    (whole_loss([out.vectors]) + out.states.square().sum()).backward()
    expected = gradients(net)
    for got, wanted in zip(run(net, list(x.split(sizes)), cached), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_both_passes_draw_the_same_dropout() -> None:
    net = Net(dropout=0.5)
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(7)
    got = run(net, list(x.split(4)))
    # In one graph, with the masks drawn in the order of the first pass.
    torch.manual_seed(7)
    net.zero_grad()
    outs = [net(chunk) for chunk in x.split(4)]
    (whole_loss([out.vectors for out in outs]) + sum(out.states.square().sum() for out in outs)).backward()
    for mine, wanted in zip(got, gradients(net), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-6)


def test_random_numbers_go_on_as_if_the_second_pass_had_not_drawn() -> None:
    torch.manual_seed(3)
    state = RandomState(torch.device("cpu"))
    first = torch.rand(2)
    with state.again():
        assert torch.equal(torch.rand(2), first)
    following = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(4)[2:], following)


def test_only_the_last_chunk_is_synchronised() -> None:
    from contextlib import contextmanager

    seen: list[bool] = []

    @contextmanager
    def synchronised(last: bool):
        seen.append(last)
        yield

    net = Net(0.0)
    backward_in_chunks(
        list(torch.randn(6, 5).split(2)),
        net,
        whole_loss,
        lambda c, o: None,
        cached=True,
        device=torch.device("cpu"),
        synchronised=synchronised,
    )
    assert seen == [False, False, True]


def test_a_chunk_that_the_loss_does_not_use_gets_no_gradient() -> None:
    net = Net(0.0)
    backward_in_chunks(
        list(torch.randn(4, 5).split(2)),
        net,
        lambda vectors: vectors[0].sum() * 0,
        lambda c, o: None,
        cached=True,
        device=torch.device("cpu"),
    )
    assert all(gradient.abs().sum() == 0 for gradient in gradients(net))
