"""From token states to one vector per text. Letters: b texts, t tokens, d dimensions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["POOLINGS", "cls", "mean", "pool", "pool_spans"]


def mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real tokens, special ones included; states [b, t, d], mask [b, t] -> [b, d] float32."""
    weights = mask.to(torch.float32).unsqueeze(-1)  # [b, t, 1]
    # float32: a bfloat16 sum over 256 tokens loses the last of its eight bits.
    total = (states.float() * weights).sum(dim=1)  # [b, d]
    return total / weights.sum(dim=1).clamp(min=1e-9)  # [b, d]


def cls(states: Tensor, mask: Tensor) -> Tensor:
    """The first real token's state; states [b, t, d], mask [b, t] -> [b, d] float32. Padding may be on either side."""
    first = mask.to(torch.int64).argmax(dim=1)  # [b]
    return states[torch.arange(len(states), device=states.device), first].float()  # [b, d]


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": mean, "cls": cls}


def pool(states: Tensor, mask: Tensor, pooling: str, normalise: bool) -> Tensor:
    """Pool by name; with `normalise` the vectors have length 1. states [b, t, d], mask [b, t] -> [b, d] float32."""
    vectors = POOLINGS[pooling](states, mask)  # [b, d]
    return torch.nn.functional.normalize(vectors, dim=-1) if normalise else vectors


def pool_spans(states: Tensor, ends: Tensor, pooling: str, normalise: bool) -> Tensor:
    """As `pool`, of texts end to end: states [tokens, d] float32, text i at ends[i]:ends[i + 1] -> [b, d] float32."""
    if pooling == "cls":
        vectors = states[ends[:-1].long()]
    else:
        lengths = ends.diff().long()  # [b]
        owner = torch.repeat_interleave(torch.arange(len(lengths), device=states.device), lengths)  # [tokens]
        total = torch.zeros(len(lengths), states.shape[1], device=states.device).index_add_(0, owner, states)
        vectors = total / lengths[:, None]
    return torch.nn.functional.normalize(vectors, dim=-1) if normalise else vectors
