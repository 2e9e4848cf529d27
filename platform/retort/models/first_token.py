"""A classifier that reads only its first token need not compute the others in its last layer.

    narrow = FirstToken.of(model)        None where the architecture is not known to read one token
    with narrow: model(**inputs)         equal logits; a layer's output projection and feed-forward less
    reads_first_token(model)             whether the other tokens' last states reach the logits, for any architecture

In the last layer the other tokens are needed as keys and values alone. Of six layers that saves an eighth of all products, of
twelve a sixteenth. Whether a model really reads one token is not taken from its name but tried, once, on its own weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

__all__ = ["FirstToken", "reads_first_token"]

_TOLERANCE = 1e-4


class FirstToken:
    """A context in which the last layer computes its first token only. Not for several threads at once."""

    def __init__(self, attention: nn.Module) -> None:
        """Take the last layer's attention block, with the modules `self` and `output`."""
        self._attention = attention
        self._handles: list[Any] = []

    @classmethod
    def of(cls, model: PreTrainedModel) -> Self | None:
        """Return the context for this classifier; None where its last layer is built otherwise, or more of it is read."""
        attention = _last_attention(model)
        if attention is None:
            return None
        found = cls(attention)
        return found if _changes_nothing(model, found) else None

    def __enter__(self) -> Self:
        attention: Any = self._attention
        self._handles = [
            attention.self.register_forward_hook(_cut_output),
            attention.output.register_forward_pre_hook(_cut_residual),
        ]
        return self

    def __exit__(self, *exc: object) -> None:
        while self._handles:
            self._handles.pop().remove()


def reads_first_token(model: PreTrainedModel) -> bool:
    """Whether a classifier's logits come from its first token's last state alone; tried once, on its own weights."""
    body = getattr(model, model.base_model_prefix, None)
    return isinstance(body, nn.Module) and _changes_nothing(model, _others_blank(body))


@contextmanager
def _others_blank(body: nn.Module) -> Iterator[None]:
    """The last states of all tokens but the first are zero."""

    def blank(module: nn.Module, given: Any, made: Any) -> Any:
        states = made[0].clone()  # [b, t, d]
        states[:, 1:] = 0
        if isinstance(made, tuple):
            return (states, *made[1:])
        made.last_hidden_state = states
        return made

    handle = body.register_forward_hook(blank)
    try:
        yield
    finally:
        handle.remove()


def _changes_nothing(model: PreTrainedModel, change: AbstractContextManager[Any]) -> bool:
    """Whether logits are the same within the change."""
    device = next(model.parameters()).device
    size = max(3, min(64, int(model.config.vocab_size) - 1))
    ids = (torch.arange(3 * 7, device=device) % size).reshape(3, 7)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    was_training = model.training
    model.eval()  # type: ignore[no-untyped-call]
    try:
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            whole = model(input_ids=ids, attention_mask=mask).logits
            with change:
                narrow = model(input_ids=ids, attention_mask=mask).logits
    except (RuntimeError, TypeError, IndexError):  # something behind the last layer wants all tokens
        return False
    finally:
        model.train(was_training)
    scale = max(1.0, float(whole.abs().max()))
    return narrow.shape == whole.shape and float((narrow - whole).abs().max()) <= _TOLERANCE * scale


def _last_attention(model: PreTrainedModel) -> nn.Module | None:
    """Return the attention block of the last layer where it is built as in BERT, RoBERTa, ELECTRA and their kin."""
    body = getattr(model, model.base_model_prefix, None)
    layers = getattr(getattr(body, "encoder", None), "layer", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        return None
    attention = getattr(layers[-1], "attention", None)
    known = isinstance(attention, nn.Module) and hasattr(attention, "self") and hasattr(attention, "output")
    return attention if known else None


def _cut_output(module: nn.Module, given: Any, made: Any) -> Any:
    if isinstance(made, Tensor):
        return made[:, :1]  # [b, 1, d]
    return (made[0][:, :1], *made[1:])


def _cut_residual(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    states, residual, *rest = given
    return (states, residual[:, :1], *rest)
