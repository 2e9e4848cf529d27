"""A BERT body laid out for inference on a CPU: its weights in a few tensors, its forward pass without modules.

    lay_out(model, precision)     what gives its states from now on, sooner; uses its layers up. With `half_weights` they may be
                                  kept in float16, where that makes few tokens faster

Most of the time of one short query through a small model's modules goes into Python, dispatch and small copies between the
products. Here query, key and value are one product, GELU is done on its product's way out (unrounded), the calls between are
fewer than half, and TorchScript makes them without Python. A model that is not of this family, or whose states differ, keeps its modules, with packed linear layers
(`packed.py`). Letters: b texts, t tokens, d dimensions, h heads.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from retort.models.backend import Precision, autocast
from retort.models.packed import can_lay_out, half_weights_pay, laid_out, pack, used_with

__all__ = ["Body", "FlatBody", "lay_out"]

log = logging.getLogger(__name__)

Body = Callable[[Tensor, Tensor], Tensor]
"""(ids, mask), both [b, t] int64 and padded on the right -> states [b, t, d]."""

FAMILY = ("BertModel", "RobertaModel", "XLMRobertaModel", "CamembertModel")
# Relative; what rounding alone does is a tenth of it.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 3e-3}


class _Layer(nn.Module):
    """A layer, to be called only."""

    def __init__(self, layer: Any, dtype: torch.dtype, heads: int, eps: float) -> None:
        super().__init__()
        own, out = layer.attention.self, layer.attention.output
        self.attention_in = laid_out([own.query, own.key, own.value], dtype)  # [d] -> query, key, value [3 d]
        self.attention_out = laid_out([out.dense], dtype)
        self.inner = laid_out([layer.intermediate.dense], dtype)
        self.outer = laid_out([layer.output.dense], dtype)
        self.attention_weight, self.attention_bias = _norm(out.LayerNorm)
        self.weight, self.bias = _norm(layer.output.LayerNorm)
        self.dtype = used_with(dtype)
        self.heads, self.eps, self.dim = heads, eps, int(self.weight.shape[0])

    def forward(self, states: Tensor, hidden: Tensor | None) -> Tensor:
        """States [b, t, d] float32 and which tokens may see which, bool [b, 1, t, t] -> states [b, t, d]."""
        texts, tokens = states.shape[0], states.shape[1]
        projected = self.attention_in(states.to(self.dtype)).view(texts, tokens, 3, self.heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)  # [b, h, t, d / h] each
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=hidden)
        attended = self.attention_out(attended.transpose(1, 2).reshape(texts, tokens, self.dim))
        # The sum is float32, as under autocast: the states between the layers are not rounded.
        states = torch.layer_norm(attended + states, [self.dim], self.attention_weight, self.attention_bias, self.eps)
        inner = self.inner(states.to(self.dtype), "gelu")
        return torch.layer_norm(self.outer(inner) + states, [self.dim], self.weight, self.bias, self.eps)


class _Layers(nn.Module):
    """Everything between ids and states."""

    def __init__(self, words: Tensor, norm: nn.LayerNorm, layers: Sequence[_Layer], eps: float) -> None:
        super().__init__()
        self.words, (self.weight, self.bias) = words, _norm(norm)
        self.eps, self.dim = eps, int(words.shape[1])
        self.layers = nn.ModuleList(layers)

    def forward(self, ids: Tensor, positions: Tensor, hidden: Tensor | None) -> Tensor:
        """Ids [b, t], vectors of their positions [t, d] or [b, t, d], and `hidden` as a layer's -> states [b, t, d]."""
        states = torch.embedding(self.words, ids) + positions
        states = torch.layer_norm(states, [self.dim], self.weight, self.bias, self.eps)
        for layer in self.layers:
            states = layer(states, hidden)
        return states


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
        heads, eps = int(config.num_attention_heads), float(config.layer_norm_eps)
        layers = [_Layer(layer, dtype, heads, eps) for layer in body.encoder.layer]
        self._layers = _compiled(_Layers(self._words, places.LayerNorm, layers, eps).eval())

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """As `Body`; what is calculated in which precision is written down here, whatever autocast says."""
        texts, tokens = ids.shape
        hidden = None if bool(mask.all()) else mask.bool()[:, None, None, :].expand(texts, 1, tokens, tokens)
        with torch.autocast("cpu", enabled=False):
            states: Tensor = self._layers(ids, self._position_vectors(ids, mask), hidden)
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


def _compiled(layers: _Layers) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """The same without Python between the products, a good part of a short query's time; as it is where torch cannot do that."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch prefers torch.export, which needs a compiler on the machine
            script: Callable[[Tensor, Tensor, Tensor | None], Tensor] = torch.jit.script(layers)
    except Exception as why:  # of a torch without it, it raises what it likes
        log.info("layers stay in Python: %s", why)
        return layers
    return script


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
