"""The attention function that every model here runs, and the recording of what goes into it.

transformers lets an attention function be registered under a name; models call it with queries and keys as they are
used, after rotary positions where there are any. That gives three things in one place and for every architecture:

    the kernel     torch's fused attention; but for training in bfloat16 on a CPU plain matrix products, because the
                   backward pass of the fused one takes half of such a step there
    within         `within(spans)` lets texts that lie end to end in one row attend to themselves alone (`unpadded.py`)
    recording      `recording(layers)` keeps queries and keys of some layers, from which `Recording.probabilities`
                   computes the attention of these layers only, in float32: no eager attention for the whole model

Models that do not take registered functions (MPNet, DeBERTa) keep their own; `uses_ours` tells which.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import PreTrainedModel

__all__ = ["Recording", "Spans", "install", "recording", "uses_ours", "within"]

NAME = "retort"


@dataclass
class Recording:
    """Queries and keys of some layers of one forward pass. Letters: b texts, h heads, t tokens."""

    wanted: frozenset[int]
    layers: list[tuple[Tensor, Tensor, float]] = field(default_factory=list)
    _passed: int = 0

    def add(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Called by each attention layer in turn."""
        if self._passed in self.wanted:
            self.layers.append((query, key, scaling))
        self._passed += 1

    def probabilities(self, mask: Tensor, heads: list[int] | None = None) -> Tensor:
        """Return attention of the recorded layers, mean over layers and (chosen) heads: [b, t, t] float32.

        Rows are the attending tokens; columns where `mask` [b, t] is 0 get nothing.
        """
        hidden = (mask == 0)[:, None, None, :]  # [b, 1, 1, t]
        total: Tensor | None = None
        for query, key, scaling in self.layers:
            if heads is not None:
                query, key = query[:, heads], key[:, heads]
            # float32, and the scale on the smaller tensor; in-place work keeps one [b, h, t, t] alive.
            scores = torch.matmul(query.float() * scaling, key.float().transpose(2, 3))  # [b, h, t, t]
            layer = scores.masked_fill_(hidden, float("-inf")).softmax(dim=-1).mean(dim=1)  # [b, t, t]
            total = layer if total is None else total.add_(layer)
        assert total is not None and len(self.layers) == len(self.wanted), "not every layer was recorded"
        return total.div_(len(self.layers))


_current: ContextVar[Recording | None] = ContextVar("retort_attention_recording", default=None)


@contextmanager
def recording(layers: Collection[int]) -> Iterator[Recording]:
    """Keep queries and keys of these attention layers, numbered from 0, of the one forward pass run inside."""
    record = Recording(frozenset(layers))
    token = _current.set(record)
    try:
        yield record
    finally:
        _current.reset(token)


@dataclass(frozen=True)
class Spans:
    """Texts that lie end to end in one row: text i is at ends[i]:ends[i + 1]."""

    ends: Tensor  # [n + 1] int32, where the model is
    longest: int
    ends_here: list[int]


_spans: ContextVar[Spans | None] = ContextVar("retort_attention_spans", default=None)


@contextmanager
def within(spans: Spans) -> Iterator[None]:
    """Let each text of a row attend to itself alone in the forward pass run inside."""
    token = _spans.set(spans)
    try:
        yield
    finally:
        _spans.reset(token)


def install(model: PreTrainedModel) -> bool:
    """Let `model` run the function below; False where its architecture keeps its own attention."""
    if not type(model)._can_set_attn_implementation():
        return False
    model.set_attn_implementation(NAME)
    return uses_ours(model)


def uses_ours(model: PreTrainedModel) -> bool:
    """Whether `recording` will see this model's attention."""
    return bool(model.config._attn_implementation == NAME)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend; query, key, value [b, h, t, head], mask [b, 1, t, t] bool -> [b, t, h, head]."""
    scale = query.size(-1) ** -0.5 if scaling is None else scaling
    groups = getattr(module, "num_key_value_groups", 1)
    record = _current.get()
    if record is not None:
        record.add(query, repeat_kv(key, groups) if groups > 1 else key, scale)
    spans = _spans.get()
    if spans is not None:
        return _attend_within(query, key, value, spans, scale, groups), None
    plain = groups == 1 and not getattr(module, "is_causal", False) and kwargs.get("position_bias") is None
    if plain and query.dtype == torch.bfloat16 and query.device.type == "cpu" and query.requires_grad:
        return _eager(query, key, value, attention_mask, dropout, scale), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scale, **kwargs)


def _attend_within(query: Tensor, key: Tensor, value: Tensor, spans: Spans, scale: float, groups: int) -> Tensor:
    """Each text of the one row by itself; query, key, value [1, h, t, head] -> [1, t, h, head]."""
    if query.device.type == "cuda":
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (part[0].transpose(0, 1).to(torch.bfloat16) for part in (query, key, value))  # [t, h, head]
        ends, longest = spans.ends, spans.longest
        attended: Tensor = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scale, enable_gqa=groups > 1)  # type: ignore[assignment]
        return attended[None].to(query.dtype)
    parts = [
        nn.functional.scaled_dot_product_attention(
            query[:, :, start:end], key[:, :, start:end], value[:, :, start:end], scale=scale, enable_gqa=groups > 1
        )
        for start, end in pairwise(spans.ends_here)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2)


def _eager(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scale: float) -> Tensor:
    """Attention by plain matrix products; shapes as in `_attend`."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scale  # [b, h, t, t]
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if mask.dtype == torch.bool else scores + mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)  # [b, h, t, t]
    weights = nn.functional.dropout(weights, p=dropout, training=dropout > 0)
    return torch.matmul(weights, value).transpose(1, 2).contiguous()  # [b, t, h, head]


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
