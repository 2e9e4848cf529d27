"""The word level: where in a passage each query word finds its answer, as teacher and student see it.

The student's map comes from its token states before pooling: softmax(Hq Hp^T / (sqrt(d) T)) per query token, and the
same the other way round per passage token (methods.md). Tokens become words by character offsets, as the teacher's do
(`models/alignment.py`): columns of one word are summed, rows of one word are averaged. Tokens of no word (special tokens, punctuation, padding)
and words that the teacher did not see are left out *before* the softmax, so that each row is a distribution over the
words present on both sides.

The teacher's map is compact: per row the top-k columns as (index, weight) and the rest of the mass in one bucket.

Pure functions; neighbours: `models/word_maps.py` holds the stored maps, `collate.py` the index tensors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from retort.distillation.losses import wide

__all__ = ["student_word_maps", "two_way_loss", "word_loss"]

TINY = 1e-8
"""Added inside the logarithm: a word on which the student puts nothing costs at most -log(1e-8) = 18 nats."""


def student_word_maps(
    query_states: Tensor,
    passage_states: Tensor,
    query_words: tuple[Tensor, Tensor],
    passage_words: tuple[Tensor, Tensor],
    *,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The student's interaction between words, both directions.

    Args:
        query_states: [pairs, query tokens, dim].
        passage_states: [pairs, passage tokens, dim].
        query_words: columns [pairs, query tokens, query words] and rows [pairs, query words, query tokens] of
            `models.alignment.pooling_matrices`; zero for tokens of no word in use and for padding.
        passage_words: likewise for the passage.
        temperature: divides the scores besides sqrt(dim); above 1 flattens the maps.

    Returns:
        Query to passage [pairs, query words, passage words] and passage to query [pairs, passage words, query words],
        float32. A row sums to 1, or is zero where no token has that word.
    """
    scores = torch.bmm(
        wide(query_states), wide(passage_states).transpose(1, 2)
    )  # [pairs, query tokens, passage tokens]
    scores = scores / (math.sqrt(query_states.shape[-1]) * temperature)
    forward = _to_words(scores, query_words[1], passage_words[0])
    backward = _to_words(scores.transpose(1, 2), passage_words[1], query_words[0])
    return forward, backward


def _to_words(scores: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Softmax per row over tokens that belong to a word, then columns summed and rows averaged; [pairs, words, words]."""
    absent = (columns.sum(dim=-1) == 0).unsqueeze(1)  # [pairs, 1, column tokens]
    # A large negative number, not -inf: a pair without any column word would give nan.
    shares = torch.softmax(scores.masked_fill(absent, -1e9), dim=-1).masked_fill(
        absent, 0.0
    )  # [pairs, row tokens, column tokens]
    return rows.to(shares.dtype) @ (shares @ columns.to(shares.dtype))  # [pairs, row words, column words]


def word_loss(student: Tensor, index: Tensor, weight: Tensor, rest: Tensor) -> Tensor:
    """KL(teacher row || student row), mean over the rows that the teacher gives; one direction.

    The bucket: what the teacher gave to words outside its top k is compared with what the student gives to all words
    outside that top k, as one entry.

    Args:
        student: [pairs, rows, words] from `student_word_maps`.
        index: [pairs, rows, k] int64 columns of the teacher's largest weights; negative where there are fewer.
        weight: [pairs, rows, k] the weights.
        rest: [pairs, rows] teacher mass outside the top k; 0 where the student has no word outside it.

    Returns:
        [pairs] float32, zero for a pair without rows. Each teacher row is scaled to sum 1 first; rows of no mass and
        rows without a student's word are left out.
    """
    ours = wide(student)  # [pairs, rows, words]
    listed = index >= 0  # [pairs, rows, k]
    place = index.clamp(min=0)
    theirs = weight.to(ours.dtype).masked_fill(~listed, 0.0)  # [pairs, rows, k]
    outside = rest.to(ours.dtype)  # [pairs, rows]
    total = theirs.sum(dim=-1) + outside  # [pairs, rows]
    rows = (total > 0) & (ours.sum(dim=-1) > 0)  # [pairs, rows]
    scale = total.clamp(min=TINY)
    theirs, outside = theirs / scale.unsqueeze(-1), outside / scale

    picked = ours.gather(2, place)  # [pairs, rows, k]
    # Summed over the unlisted words rather than 1 - listed: the difference of near-equal numbers would be all rounding.
    taken = torch.zeros_like(ours).scatter_add(2, place, listed.to(ours.dtype)) > 0
    remaining = ours.masked_fill(taken, 0.0).sum(dim=-1)  # [pairs, rows]
    divergence = _cross(theirs, picked).sum(dim=-1) + _cross(outside, remaining)  # [pairs, rows]
    return (divergence * rows).sum(dim=-1) / rows.sum(dim=-1).clamp(min=1)


def two_way_loss(
    forward: Tensor, backward: Tensor, index: Tensor, weight: Tensor, rest: Tensor, rows: Tensor, row_weight: Tensor
) -> Tensor:
    """Mean of both directions of `word_loss`, per pair.

    Args:
        forward: [pairs, query words, passage words] of the student.
        backward: [pairs, passage words, query words] of the student.
        index: [pairs, query words, k] int64 passage words of the teacher's entries, -1 in padding.
        weight: [pairs, query words, k] their weights.
        rest: [pairs, query words] the bucket of each row.
        rows: [pairs, k] int64 passage words whose row to the query the teacher gives, -1 in padding.
        row_weight: [pairs, k, query words] these rows, whole.

    Returns:
        [pairs] float32.
    """
    pairs, k = rows.shape
    query_words = forward.shape[1]
    chosen = backward.gather(
        1, rows.clamp(min=0).unsqueeze(-1).expand(pairs, k, backward.shape[2])
    )  # [pairs, k, query words]
    everyone = torch.arange(query_words, device=rows.device).expand(pairs, k, query_words)
    given = row_weight.masked_fill((rows < 0).unsqueeze(-1), 0.0)
    there = word_loss(forward, index, weight, rest)
    back = word_loss(chosen, everyone, given, torch.zeros_like(given[..., 0]))
    return (there + back) / 2


def _cross(teacher: Tensor, student: Tensor) -> Tensor:
    """teacher * log(teacher / student), zero where the teacher is zero."""
    return torch.xlogy(teacher, teacher) - teacher * torch.log(student + TINY)
