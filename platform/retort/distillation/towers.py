"""The student as training sees it: a chunk's texts in, token states and vectors out, in one call.

One call per chunk, because data parallelism wants one forward pass per backward pass, while texts of like length are
encoded together in several passes within it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from retort.distillation.collate import Chunk, TokenBatch
from retort.models.dual_encoder import DualEncoder

__all__ = ["EncodedChunk", "Towers", "parallel"]


class Towers(nn.Module):
    """Query and passage tower; they share one encoder."""

    def __init__(self, encoder: DualEncoder) -> None:
        """Take the student."""
        super().__init__()
        self.encoder = encoder

    def forward(self, texts: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """(ids, mask), each [texts, tokens], to (states [texts, tokens, dim], vectors [texts, dim]) per token batch."""
        return [self.encoder(ids, mask) for ids, mask in texts]


def parallel(towers: Towers, world: int) -> nn.Module:
    """`towers`, wrapped for data parallelism where there are several workers.

    Buffers (position ids) are constants, so they are not sent round.
    """
    if world == 1:
        return towers
    return nn.parallel.DistributedDataParallel(towers, broadcast_buffers=False, gradient_as_bucket_view=True)


@dataclass(frozen=True)
class EncodedChunk:
    """What a chunk became."""

    vectors: Tensor  # [queries + passages, dim] in the chunk's order
    query_states: Tensor  # [queries, longest query, dim] in the chunk's order, zero behind the end
    passage_states: list[Tensor]  # per passage batch [texts, tokens, dim], in the order of its places

    @classmethod
    def of(cls, chunk: Chunk, towers: nn.Module, device: torch.device) -> EncodedChunk:
        """Encode a chunk."""
        outputs = towers([(part.ids.to(device), part.mask.to(device)) for part in chunk.token_batches])
        queries, passages = outputs[: len(chunk.queries)], outputs[len(chunk.queries) :]
        longest = max(states.shape[1] for states, _ in queries)
        padded = [nn.functional.pad(states, (0, 0, 0, longest - states.shape[1])) for states, _ in queries]
        return cls(
            vectors=torch.cat(
                [_ordered([v for _, v in queries], chunk.queries), _ordered([v for _, v in passages], chunk.passages)]
            ),
            query_states=_ordered(padded, chunk.queries),
            passage_states=[states for states, _ in passages],
        )


def _ordered(outputs: list[Tensor], parts: list[TokenBatch]) -> Tensor:
    """Rows of all batches in the order of the chunk's texts."""
    order = np.argsort(np.concatenate([part.places for part in parts]))
    return torch.cat(outputs)[torch.from_numpy(order).to(outputs[0].device)]
