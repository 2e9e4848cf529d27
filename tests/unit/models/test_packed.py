"""Weights laid out for products: whether those of 16 bits pay is asked of the machine."""

import pytest
import torch

from retort.models import packed
from retort.models.packed import can_lay_out

has_half = can_lay_out(torch.float16)


def test_whether_half_weights_pay_is_measured_once_per_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path))
    calls = []
    monkeypatch.setattr(packed, "_half_weights_speedup", lambda: calls.append(1) or 1.5)
    for speedup_known in (False, True):
        packed.half_weights_pay.cache_clear()  # what a new process starts with
        assert packed.half_weights_pay() is has_half
        assert len(calls) == int(has_half and can_lay_out(torch.float32)), speedup_known
    packed.half_weights_pay.cache_clear()


@pytest.mark.skipif(not has_half, reason="torch has no products with float16 weights on this processor")
def test_the_trial_of_half_weights_ends_with_a_ratio():
    assert 0.05 < packed._half_weights_speedup(rounds=1) < 50
