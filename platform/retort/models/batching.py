"""Batches of texts of like length, counted in tokens rather than rows, so that little is computed for padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["pad", "token_batches"]


def token_batches(
    lengths: Sequence[int] | NDArray[np.integer], token_budget: int, max_rows: int | None = None
) -> list[NDArray[np.int64]]:
    """Cut rows into batches of at most `token_budget` padded tokens (rows x longest), longest rows first.

    Every row is in exactly one batch; a row longer than the budget is alone in its own. Rows of equal length keep their
    order, so the result is a pure function of the lengths. Longest first: what does not fit in memory fails at once.

    Args:
        lengths: tokens of each row, [n].
        token_budget: most tokens in a batch, padding included.
        max_rows: most rows in a batch.
    """
    assert token_budget > 0, token_budget
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        longest = max(1, int(sizes[order[start]]))
        rows = max(1, token_budget // longest)
        if max_rows is not None:
            rows = min(rows, max_rows)
        batches.append(order[start : start + rows])
        start += rows
    return batches


def pad(
    rows: Sequence[Sequence[int] | NDArray[np.integer]], value: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Return (ids, mask), both [rows, longest] int64; ids end in `value`, the mask is 1 on real tokens."""
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    width = int(lengths.max(initial=0))
    real = np.arange(width)[None, :] < lengths[:, None]  # [rows, longest]
    ids = np.full((len(rows), width), value, dtype=np.int64)
    if len(rows):
        ids[real] = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    pair = torch.from_numpy(ids), torch.from_numpy(real.astype(np.int64))
    if torch.device(device).type == "cpu":
        return pair
    ids_on, mask_on = (tensor.pin_memory().to(device, non_blocking=True) for tensor in pair)
    return ids_on, mask_on
