"""A BERT body laid out for inference on a CPU: its weights in a few tensors, its forward pass without modules.

    lay_out(model, precision)     what gives its states from now on, sooner; uses its layers up. With `half_weights` they may be
                                  kept in float16, where that makes few tokens faster

Most of the time of one short query through a small model's modules goes into Python, dispatch and small copies between the
products. Here query, key and value are one product, GELU is done on its product's way out (unrounded), and the calls between are
fewer than half. A model that is not of this family, or whose states differ, keeps its modules, with packed linear layers
(`packed.py`). Letters: b texts, t tokens, d dimensions, h heads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from retort.models.backend import Precision, autocast
from retort.models.packed import LaidOut, can_lay_out, half_weights_pay, pack, used_with

__all__ = ["Body", "FlatBody", "lay_out"]

log = logging.getLogger(__name__)

Body = Callable[[Tensor, Tensor], Tensor]
"""(ids, mask), both [b, t] int64 and padded on the right -> states [b, t, d]."""

FAMILY = ("BertModel", "RobertaModel", "XLMRobertaModel", "CamembertModel")
# Relative; what rounding alone does is a tenth of it.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 3e-3}


@dataclass(frozen=True)
class _Layer:
    """Weights of a layer."""

    attention_in: LaidOut  # [d] -> query, key, value [3 d]
    attention_out: LaidOut
    attention_norm: tuple[Tensor, Tensor]
    inner: LaidOut
    outer: LaidOut
    norm: tuple[Tensor, Tensor]


class FlatBody:
    """A body that can only be called, within inference_mode."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype, first_position: int) -> None:
        """Copy the weights of a model of `FAMILY`, to keep in `dtype`; positions are counted from `first_position`."""
        body: Any = model
        places, config = body.embeddings, model.config
        self._words = places.word_embeddings.weight.detach()  # [vocabulary, d], shared with the model
        types = places.token_type_embeddings.weight.detach()[0]
        self._positions = places.position_embeddings.weight.detach() + types  # [positions, d]
        self._first = first_position
        # Where counting begins behind the padding token, such a token has no position of its own.
        self._pad_id = config.pad_token_id if first_position else None
        self._norm = _norm(places.LayerNorm)
        self._heads, self._shape, self._eps = config.num_attention_heads, (config.hidden_size,), config.layer_norm_eps
        self._dtype = used_with(dtype)
        self._layers = [_layer(layer, dtype) for layer in body.encoder.layer]

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """As `Body`; what is calculated in which precision is written down here, whatever autocast says."""
        with torch.autocast("cpu", enabled=False):
            return self._states(ids, mask)

    def _states(self, ids: Tensor, mask: Tensor) -> Tensor:
        texts, tokens = ids.shape
        shape, eps, dtype = self._shape, self._eps, self._dtype
        hidden = None if bool(mask.all()) else mask.bool()[:, None, None, :].expand(texts, 1, tokens, tokens)
        states = torch.layer_norm(
            torch.embedding(self._words, ids) + self._position_vectors(ids, mask), shape, *self._norm, eps
        )
        for layer in self._layers:
            projected = layer.attention_in(states.to(dtype)).view(texts, tokens, 3, self._heads, -1)
            query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)  # [b, h, t, d / h] each
            attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=hidden)
            attended = layer.attention_out(attended.transpose(1, 2).reshape(texts, tokens, -1))
            # The sum is float32, as under autocast: the states between the layers are not rounded.
            states = torch.layer_norm(attended + states, shape, *layer.attention_norm, eps)
            inner = layer.inner(states.to(dtype), "gelu")
            states = torch.layer_norm(layer.outer(inner) + states, shape, *layer.norm, eps)
        return states

    def _position_vectors(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[t, d] or [b, t, d], token types included."""
        if self._pad_id is not None:
            padding = ids == self._pad_id
            if bool((padding & (mask == 1)).any()):  # somebody wrote "<pad>": RoBERTa's family counts on without it
                counted = (~padding).long()
                return torch.embedding(self._positions, counted.cumsum(1) * counted + self._first - 1)
        vectors: Tensor = self._positions[self._first : self._first + ids.shape[1]]
        return vectors

    @classmethod
    def of(cls, model: PreTrainedModel, precision: Precision, *, half_weights: bool = False) -> FlatBody | None:
        """The body of this model; None where it is of another family, or its states differ on a few made texts.

        With `half_weights` float32's weights are kept in float16, where that pays and rounds no more than it should.
        """
        config = model.config
        if type(model).__name__ not in FAMILY or config.hidden_act != "gelu" or getattr(config, "is_decoder", False):
            return None
        if getattr(config, "position_embedding_type", None) not in (None, "absolute"):
            return None
        half = (
            cls._of(model, precision, torch.float16)
            if half_weights and precision == "fp32" and half_weights_pay()
            else None
        )
        return half or cls._of(model, precision, torch.bfloat16 if precision == "bf16" else torch.float32)

    @classmethod
    def _of(cls, model: PreTrainedModel, precision: Precision, dtype: torch.dtype) -> FlatBody | None:
        body: Any = model
        if not can_lay_out(dtype):
            return None
        ids, mask = _made_texts(model)
        try:
            with torch.inference_mode():
                with autocast(precision, "cpu"):
                    expected = _real(model(input_ids=ids, attention_mask=mask).last_hidden_state, mask)
                # RoBERTa's family counts positions from behind its padding token's.
                padding = getattr(body.embeddings.position_embeddings, "padding_idx", None)
                flat = cls(model, dtype, 0 if padding is None else padding + 1)
                error = float((_real(flat(ids, mask), mask) - expected).norm() / expected.norm())
        except (RuntimeError, AttributeError, TypeError, ValueError) as why:  # a layout that only its name shares
            log.info("%s is not laid out in %s: %s", type(model).__name__, dtype, why)
            return None
        if not error <= _TOLERANCE[dtype]:
            log.info("%s is not laid out in %s: its states would be off by %.1e", type(model).__name__, dtype, error)
            return None
        return flat


def lay_out(model: PreTrainedModel, precision: Precision, *, half_weights: bool = False) -> Body | None:
    """What gives the model's states from now on, its own layers being used up; None, and nothing changed, where this cannot be done.

    For a model in eval mode on a CPU. `half_weights` as `FlatBody.of`; packed layers of other families have none.
    """
    flat = FlatBody.of(model, precision, half_weights=half_weights)
    if flat is not None:
        body: Any = model
        body.encoder.layer = nn.ModuleList()  # the weights are not kept twice
        return flat
    if not pack(model, precision):
        return None

    def through_modules(ids: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states

    return through_modules


def _layer(layer: Any, dtype: torch.dtype) -> _Layer:
    own, out = layer.attention.self, layer.attention.output
    return _Layer(
        attention_in=LaidOut.of([own.query, own.key, own.value], dtype),
        attention_out=LaidOut.of([out.dense], dtype),
        attention_norm=_norm(out.LayerNorm),
        inner=LaidOut.of([layer.intermediate.dense], dtype),
        outer=LaidOut.of([layer.output.dense], dtype),
        norm=_norm(layer.output.LayerNorm),
    )


def _norm(module: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    return module.weight.detach(), module.bias.detach()


def _made_texts(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Ids and mask [3, 9] of texts of 9, 4 and 1 tokens, with no padding token among them."""
    most = max(2, min(int(model.config.vocab_size), 1000))
    pad_id = int(getattr(model.config, "pad_token_id", None) or 0)
    mask = (torch.arange(9)[None, :] < torch.tensor([9, 4, 1])[:, None]).long()
    ids = (1 + (7 * torch.arange(27) ** 2) % (most - 1)).reshape(3, 9)
    ids = torch.where(ids == pad_id, (ids + 1) % most, ids)
    return torch.where(mask == 1, ids, pad_id), mask


def _real(states: Tensor, mask: Tensor) -> Tensor:
    return states[mask == 1].float()
