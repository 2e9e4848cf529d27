"""Negatives of other workers: all-gather that passes gradients back to where the rows came from.

With one process (or no process group) everything here is the identity. Workers may hold different numbers of rows.
Neighbours: `trainer.py` scores its queries against the gathered passages; `caching.py` cuts the gradient at the vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["gather_numbers", "gather_rows", "sum_over_workers", "world_size"]


def world_size() -> int:
    """Number of workers, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(x: Tensor) -> Tensor:
    """Rows of all workers, in the order of their ranks: [rows of this worker, dim] -> [rows of all, dim].

    The gradient of a row is the sum of what every worker's loss has to say about it, and arrives at the worker that holds
    the row. So the loss of the whole batch is the *sum* of the workers' losses.
    """
    if world_size() == 1:
        return x
    gathered: Tensor = _GatherRows.apply(x, _sizes(x))  # type: ignore[no-untyped-call]
    return gathered


def gather_numbers(values: NDArray[np.int64], device: torch.device | str = "cpu") -> NDArray[np.int64]:
    """Integers of all workers (row numbers, say), in the order of their ranks; [this worker's] -> [all]."""
    if world_size() == 1:
        return values
    mine = torch.from_numpy(values.astype(np.int64)).to(device)
    return _gather(mine, _sizes(mine)).cpu().numpy()


def sum_over_workers(values: list[float], device: torch.device | str = "cpu") -> list[float]:
    """Element-wise sums over the workers, in float64."""
    if world_size() == 1:
        return values
    total = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return [float(value) for value in total.cpu()]


def _sizes(x: Tensor) -> list[int]:
    """Rows of each worker."""
    mine = torch.tensor([x.shape[0]], dtype=torch.int64, device=x.device)
    sizes = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(sizes, mine)
    return [int(size) for size in sizes]


def _gather(x: Tensor, sizes: list[int]) -> Tensor:
    """All rows. Collectives want equal shapes, so shorter shares travel padded."""
    longest = max(sizes)
    padded = x.new_zeros((longest, *x.shape[1:]))
    padded[: x.shape[0]] = x
    shares = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(shares, padded)
    return torch.cat([share[:size] for share, size in zip(shares, sizes, strict=True)])


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int]) -> Tensor:
        ctx.start = sum(sizes[: dist.get_rank()])
        ctx.stop = ctx.start + x.shape[0]
        return _gather(x, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # All-reduce, not reduce-scatter: gloo has none for unequal shares, and the tensor is small ([passages, dim]).
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.start : ctx.stop], None
