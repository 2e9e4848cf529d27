"""Losses of the tuned query encoder against constant passage vectors; gradients reach the queries alone.

Pure functions over scores; each returns one number per query, so that the caller divides by the size of the *global*
batch, whatever way it was cut over workers.

    triplet_loss   max(0, margin - s(q, p+) + s(q, p-)), mean over a query's negatives (the paper's loss)
    infonce_loss   the positive against all passages of the global batch
    distil_loss    KL to the teacher's softmax over its judged candidates, weighted by trust

Masks are True where there is something. Neighbour: `batches.py` draws the passages.
"""

from __future__ import annotations

import torch
from torch import Tensor

from retort.distillation.losses import contrastive_loss, sentence_kl, wide

__all__ = ["distil_loss", "infonce_loss", "triplet_loss"]


def triplet_loss(positive: Tensor, negatives: Tensor, mask: Tensor, *, margin: float) -> Tensor:
    """Triplet margin loss on scores (cosines, where the encoder normalises).

    Args:
        positive: [queries] score of the positive.
        negatives: [queries, negatives] scores of the negatives.
        mask: [queries, negatives] bool.
        margin: how much higher the positive has to be, in units of the score.

    Returns:
        [queries] float32; zero for a query without negatives.
    """
    gaps = torch.relu(margin - wide(positive).unsqueeze(-1) + wide(negatives))  # [queries, negatives]
    kept = torch.where(mask, gaps, torch.zeros_like(gaps))
    return kept.sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)


def infonce_loss(positive: Tensor, others: Tensor, mask: Tensor, *, temperature: float) -> Tensor:
    """-log( exp(s+ / T) / (exp(s+ / T) + sum of exp(s- / T)) ).

    Args:
        positive: [queries] score of the positive.
        others: [queries, passages] scores of all passages of the global batch.
        mask: [queries, passages] bool; False at the query's own and other known positives, and at passages in another
            language, among which translations of the positive hide.
        temperature: divides all scores.

    Returns:
        [queries] float32; zero for a query without negatives.
    """
    mine = (wide(positive) / temperature).unsqueeze(-1)  # [queries, 1]
    return contrastive_loss(mine, torch.ones_like(mine, dtype=torch.bool), wide(others) / temperature, mask)


def distil_loss(
    student: Tensor, teacher: Tensor, mask: Tensor, trust: Tensor, *, temperature: float, teacher_temperature: float
) -> Tensor:
    """KL(teacher || student) over each query's judged candidates.

    Args:
        student: [queries, candidates] scores of the query encoder.
        teacher: [queries, candidates] logits of the teacher.
        mask: [queries, candidates] bool.
        trust: [queries, candidates] in [0, 1].
        temperature: divides the student's scores.
        teacher_temperature: divides the teacher's.

    Returns:
        [queries] float32; zero for a list of fewer than two candidates.
    """
    return sentence_kl(wide(student) / temperature, wide(teacher) / teacher_temperature, mask, trust)
