"""Steps far below a weight's last place act; the numbers that say so are right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from retort.tuning.precise import Master, PreciseAdamW, movement, ulps_between

FLOATS = st.floats(width=32, allow_nan=False)


def run(master: Master, steps: int = 100, rate: float = 2e-8, **options: float) -> torch.Tensor:
    """Weights near 1, as LayerNorm's gains are, under a steady gradient."""
    weight = nn.Parameter(torch.linspace(0.9, 1.1, 1001))
    optimiser = PreciseAdamW([("gain", weight)], learning_rate=rate, master=master, **options)
    for _ in range(steps):
        weight.grad = torch.ones_like(weight)
        optimiser.step()
    return weight.detach().clone()


@pytest.mark.parametrize("master", ["float64", "kahan"])
def test_a_hundred_steps_of_2e_8_add_up(master: Master) -> None:
    start = torch.linspace(0.9, 1.1, 1001)
    moved = start.double() - run(master).double()
    assert moved.numpy() == pytest.approx(2e-6, abs=1.2e-7)  # a hundred steps, within a float32's last place near 1


def test_plain_float32_rounds_them_all_away() -> None:
    start = torch.linspace(0.9, 1.1, 1001)
    still = (run("float32") == start) & (start > 1)
    assert int(still.sum()) == int((start > 1).sum())
    assert movement({"gain": start[start > 1]}, {"gain": run("float64")[start > 1]})["moved"] == 1.0


def test_large_steps_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (nn.Parameter(torch.randn(40, 30, generator=torch.Generator().manual_seed(1))) for _ in range(2))
    mine = PreciseAdamW([("w", ours)], learning_rate=1e-2, weight_decay=0.1, betas=(0.8, 0.99), master="float32")
    reference = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.1, betas=(0.8, 0.99))
    for _ in range(20):
        ours.grad = torch.randn(40, 30, generator=generator)
        theirs.grad = ours.grad.clone()
        mine.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_tensor_longer_than_a_chunk_moves_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run("float64", steps=3, rate=1e-3)
    monkeypatch.setattr("retort.tuning.precise.CHUNK", 7)
    assert torch.equal(run("float64", steps=3, rate=1e-3), whole)


def test_clipping_scales_the_gradient() -> None:
    weight = nn.Parameter(torch.zeros(3))
    optimiser = PreciseAdamW([("w", weight)], learning_rate=1.0, eps=1.0, betas=(0.0, 0.0))
    weight.grad = torch.ones(3)
    optimiser.step(scale=0.5)  # 0.5 / (0.5 + 1)
    assert weight.detach().numpy() == pytest.approx(-1 / 3)


@pytest.mark.parametrize("master", ["float64", "kahan", "float32"])
def test_a_run_taken_up_goes_on_exactly(master: Master) -> None:
    def fresh() -> tuple[nn.Parameter, PreciseAdamW]:
        weight = nn.Parameter(torch.linspace(0.9, 1.1, 50))
        return weight, PreciseAdamW([("w", weight)], learning_rate=3e-8, master=master)

    def steps(weight: nn.Parameter, optimiser: PreciseAdamW, first: int, stop: int) -> None:
        for number in range(first, stop):
            weight.grad = torch.sin(torch.arange(50.0) + number)
            optimiser.step()

    one, optimiser = fresh()
    steps(one, optimiser, 0, 9)
    saved = {"weight": one.detach().clone(), "optimiser": optimiser.state_dict()}
    other, taken_up = fresh()
    taken_up.load_state_dict(saved["optimiser"])
    other.data.copy_(saved["weight"])
    steps(one, optimiser, 9, 20)
    steps(other, taken_up, 9, 20)
    assert torch.equal(one, other)


@given(FLOATS, FLOATS)
def test_a_distance_is_the_number_of_floats_between(a: float, b: float) -> None:
    x, y = torch.tensor([a], dtype=torch.float32), torch.tensor([b], dtype=torch.float32)
    distance = int(ulps_between(x, y))
    assert (
        distance == int(ulps_between(y, x)) and (distance == 0) == (x.view(torch.int32) == y.view(torch.int32)).item()
    )
    if 0 < distance < 50:
        walk = np.float32(a)
        for _ in range(distance + 1):  # one more: nextafter steps over -0.0
            if np.float32(b) == walk:
                break
            walk = np.nextafter(walk, np.float32(b))
        assert walk == np.float32(b)


def test_movement_counts_by_hand() -> None:
    before = {
        "layer.0.w": torch.tensor([1.0, 1.0, 2.0, 0.5]),
        "layer.1.w": torch.tensor([1.0, 1.0]),
        "b": torch.zeros(2),
    }
    up = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    after = {
        "layer.0.w": torch.tensor([up, 1.0, 2.0, 0.5]),
        "layer.1.w": torch.tensor([1.0, 1.0 + 4 * 2**-23]),
        "b": torch.zeros(2),
    }
    found = movement(before, after)
    assert (found["weights"], found["moved"], found["max_ulps"]) == (8, 0.25, 4)
    assert found["median_ulps"] == 2.5 and found["largest_change"] == 4 * 2**-23
    assert found["groups"] == {"b": 0.0, "layer.*.w": pytest.approx(2 / 6)}
    assert movement(before, before) | {"groups": {}} == {
        "weights": 8, "moved": 0.0, "median_ulps": 0.0, "p99_ulps": 0.0, "max_ulps": 0, "largest_change": 0.0, "groups": {},
    }  # fmt: skip
