"""Encoding without padding: the texts of a batch laid end to end in one row, each attending to itself alone.

    Unpadded.of(model, pad_id)     for a model that gives the same states this way, else None
    unpadded.states(rows)          the states of all tokens, [tokens, d], and where each text ends

On a GPU the attention is torch's variable-length kernel, in bfloat16. Elsewhere (tests) it is one call per text: on a CPU batches
of texts of like length waste little, and that would cost more than it saves. Letters: n texts, h heads, d dimensions.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from retort.models import attention
from retort.models.attention import Spans, uses_ours

__all__ = ["Unpadded", "packs"]

log = logging.getLogger(__name__)

_TOLERANCE = 2e-2  # of states of about 1: bfloat16 rounds by 4e-3


class Unpadded:
    """A model, and how it counts positions."""

    def __init__(self, model: PreTrainedModel, first_position: int) -> None:
        self._model, self._first = model, first_position

    @classmethod
    def of(cls, model: PreTrainedModel, pad_id: int) -> Unpadded | None:
        """The model without padding; None if its states differ from those with padding, on a few made texts.

        Models of RoBERTa's family count positions from the id of the padding token; which of both it is, the states tell.
        """
        if not uses_ours(model):
            return None
        most = min(model.config.vocab_size, 1000)
        texts = [[1 + (7 * i * i + i) % (most - 1) for i in range(length)] for length in (3, 9, 1, 6)]
        texts = [[token if token != pad_id else (token + 1) % most for token in text] for text in texts]
        try:
            with torch.inference_mode():
                expected = torch.cat([_alone(model, text) for text in texts])  # [tokens, d]
                for first in (0, pad_id + 1):
                    found = cls(model, first)
                    if torch.allclose(found.states(texts)[0], expected, atol=_TOLERANCE, rtol=_TOLERANCE):
                        return found
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:  # no such kernel, no such argument
            log.info("encoding with padding: %s", error)
        return None

    def states(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """(states [tokens, d] float32, ends [n + 1] int32: text i has the states ends[i]:ends[i + 1]); rows are not empty."""
        device = next(self._model.parameters()).device
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        ends = np.concatenate([[0], np.cumsum(lengths)])
        ids = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
        positions = np.arange(len(ids)) - np.repeat(ends[:-1], lengths) + self._first
        spans = Spans(torch.from_numpy(ends.astype(np.int32)).to(device), int(lengths.max()), ends.tolist())
        with attention.within(spans):
            states: Any = self._model(
                input_ids=torch.from_numpy(ids)[None].to(device),
                position_ids=torch.from_numpy(positions)[None].to(device),
            ).last_hidden_state
        return states[0].float(), spans.ends


def _alone(model: PreTrainedModel, text: Sequence[int]) -> Tensor:
    ids = torch.tensor([list(text)], device=next(model.parameters()).device)
    states: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].float()
    return states


def packs(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Cut rows, longest first, into packs of at most `token_budget` tokens; a longer row is alone in its own."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    totals = np.concatenate([[0], np.cumsum([lengths[row] for row in order])])
    cuts = [0]
    while cuts[-1] < len(order):
        fitting = int(np.searchsorted(totals, totals[cuts[-1]] + token_budget, side="right")) - 1
        cuts.append(max(fitting, cuts[-1] + 1))
    return [order[start:end] for start, end in pairwise(cuts)]
