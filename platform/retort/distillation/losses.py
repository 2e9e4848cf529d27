"""Losses of the sentence level: contrastive learning, and a teacher's scores of a query's candidates.

Pure functions over tensors; each returns one number per query, so that the caller divides by the size of the *global*
batch, whatever way it was cut over workers and chunks. Scores come in already divided by a temperature where that is said.

    contrastive_loss   InfoNCE of the positives against hard, in-batch and gathered negatives
    sentence_kl        KL(teacher || student) over the candidate list
    sentence_margin    margin-MSE (Hofstaetter et al., arXiv 2010.02666)

Masks are True where there is something. A masked score may hold anything: it reaches neither loss nor gradient.
Neighbours: `word_level.py` holds the word level, `collate.py` makes the masks, `trainer.py` adds the losses up.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SENTENCE_LOSSES", "contrastive_loss", "sentence_kl", "sentence_margin", "wide"]


def wide(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 where it is that already (gradient checks)."""
    return x if x.dtype == torch.float64 else x.float()


def contrastive_loss(positives: Tensor, positive_mask: Tensor, negatives: Tensor, negative_mask: Tensor) -> Tensor:
    """InfoNCE: -log( exp(s+) / (exp(s+) + sum of exp(s-)) ), mean over a query's positives.

    Other positives of the query are no negatives of this one: each stands alone against the negatives.

    Args:
        positives: [queries, positives] student scores divided by the temperature.
        positive_mask: [queries, positives] bool.
        negatives: [queries, negatives] student scores divided by the same temperature; one column per passage of the
            pool (hard, in-batch, gathered).
        negative_mask: [queries, negatives] bool; False at duplicates of another column, at the query's known positives
            and at passages dropped as false negatives.

    Returns:
        [queries] float32; zero for a query without positives (learnt from the teacher alone) or without negatives.
    """
    # float32: in bfloat16 the tail of a long list of negatives rounds away.
    against = wide(negatives).masked_fill(~negative_mask, float("-inf"))  # [queries, negatives]
    mine = wide(positives).masked_fill(~positive_mask, 0.0)  # [queries, positives]
    # Zero columns or no negative at all: logsumexp of nothing is -inf, whose gradient is nan; so those rows are set aside.
    some = negative_mask.any(dim=-1, keepdim=True)  # [queries, 1]
    pressure = torch.logsumexp(
        torch.where(some, against, torch.zeros_like(against)), dim=-1, keepdim=True
    )  # [queries, 1]
    losses = F.softplus(pressure - mine)  # [queries, positives]: -log sigmoid(s+ - logsumexp(s-))
    counted = positive_mask & some
    return torch.where(counted, losses, torch.zeros_like(losses)).sum(-1) / positive_mask.sum(-1).clamp(min=1)


def sentence_kl(student: Tensor, teacher: Tensor, mask: Tensor, trust: Tensor) -> Tensor:
    """KL(teacher || student) of the softmax over each query's candidates, weighted by trust.

    Trust enters both softmaxes as a prior: a candidate of trust 0 is not there, one of trust 1/2 counts half, and the loss
    is still a divergence, zero where the student agrees. A list counts by the mean trust of its candidates.

    Args:
        student: [queries, candidates] student scores divided by the student's temperature.
        teacher: [queries, candidates] teacher logits divided by the teacher's temperature.
        mask: [queries, candidates] bool, True where there is a judged candidate.
        trust: [queries, candidates] in [0, 1].

    Returns:
        [queries] float32; zero for a list of fewer than two candidates.
    """
    weight = _weights(trust, mask, like=student)  # [queries, candidates]
    there = weight > 0
    useful = there.sum(dim=-1, keepdim=True) > 1  # [queries, 1]
    prior = torch.where(there, weight, torch.ones_like(weight)).log()

    def log_softmax(scores: Tensor) -> Tensor:
        # A row of nothing but -inf would give nan, in its gradient even where it is not used.
        filled = (wide(scores).masked_fill(~there, 0.0) + prior).masked_fill(~there & useful, float("-inf"))
        return F.log_softmax(filled, dim=-1)

    log_student, log_teacher = log_softmax(student), log_softmax(teacher)  # [queries, candidates]
    terms = log_teacher.exp() * (log_teacher - log_student).masked_fill(~there, 0.0)
    return terms.sum(dim=-1) * useful.squeeze(-1) * _mean_trust(weight, mask)


def sentence_margin(student: Tensor, teacher: Tensor, mask: Tensor, trust: Tensor) -> Tensor:
    """Margin-MSE: squared difference of (first candidate - other candidate) between teacher and student.

    Column 0 is the positive, or the teacher's best candidate of an unlabelled query. A pair counts by the product of the
    trust of its two candidates. Arguments and result as in `sentence_kl`.
    """
    weight = _weights(trust, mask, like=student)  # [queries, candidates]
    ours, theirs = (wide(scores).masked_fill(~mask, 0.0) for scores in (student, teacher))
    error = (ours[:, :1] - ours[:, 1:]) - (theirs[:, :1] - theirs[:, 1:])  # [queries, candidates - 1]
    pairs = weight[:, :1] * weight[:, 1:]  # [queries, candidates - 1]
    counted = (mask[:, :1] & mask[:, 1:]).sum(dim=-1)  # [queries]
    return (error.square() * pairs).sum(dim=-1) / counted.clamp(min=1)


SENTENCE_LOSSES = {"kl": sentence_kl, "margin": sentence_margin}


def _weights(trust: Tensor, mask: Tensor, *, like: Tensor) -> Tensor:
    return trust.to(wide(like).dtype).masked_fill(~mask, 0.0)


def _mean_trust(weight: Tensor, mask: Tensor) -> Tensor:
    return weight.sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)
