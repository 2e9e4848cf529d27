"""Losses that train a teacher: how far a query's list of logits is from putting the positive first.

Pure functions over tensors. A list has the positive in column 0 and hard negatives behind it; `mask` marks the columns
that exist, because some queries have fewer negatives than others. Both losses return one number per query, so that the
caller divides by the number of queries of the *global* batch, whatever way it was cut over workers and micro-batches.

    listwise_loss   softmax cross-entropy of the positive against the whole list (the default)
    pairwise_loss   logistic loss of each (positive, negative) pair, as in RankNet (Burges et al. 2005)

Neighbours: `groups.py` decides which passages make a list, `trainer.py` sums these losses.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

__all__ = ["LOSSES", "listwise_loss", "pairwise_loss"]


def listwise_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Return -log softmax(logits)[0] for each list.

    Args:
        logits: [lists, 1 + negatives], any float dtype; column 0 is the positive.
        mask: [lists, 1 + negatives] bool, True where there is a passage; column 0 is always True.

    Returns:
        [lists] float32, zero for a list without negatives.
    """
    # float32: in bfloat16 the small differences between hard negatives, which are what is learnt, round away.
    scores = logits.float().masked_fill(~mask, float("-inf"))  # [lists, 1 + negatives]
    return -F.log_softmax(scores, dim=-1)[:, 0]  # [lists]


def pairwise_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over negatives of log(1 + exp(negative - positive)) for each list.

    Arguments and result as in `listwise_loss`.
    """
    # Filled before the arithmetic: whatever a padded column holds (inf, nan) must reach neither loss nor gradient.
    scores = logits.float().masked_fill(~mask, 0.0)  # [lists, 1 + negatives]
    present = mask[:, 1:].float()  # [lists, negatives]
    losses = F.softplus(scores[:, 1:] - scores[:, :1]) * present  # [lists, negatives]
    return losses.sum(dim=-1) / present.sum(dim=-1).clamp(min=1.0)  # [lists]


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"listwise": listwise_loss, "pairwise": pairwise_loss}
