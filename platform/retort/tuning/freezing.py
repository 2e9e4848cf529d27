"""Which weights of the query encoder stay, by the patterns of the config; beyond what `teaching.optimising.freeze` knows:

    output.dense.weight   the last dense weight of each block, as the paper means it: `layer.N.output.dense.weight`, and
                          not the like-named weight at the end of the block's attention (`attention.output.dense.weight`)
    first:N               layers 0 to N - 1
    pooler                accepted quietly: the pooler is no part of our forward pass, and never trained

All others are parts of a parameter's name between dots: embeddings, layer.3, LayerNorm, attention.output.dense.weight.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from retort.errors import ConfigError
from retort.teaching.optimising import freeze

__all__ = ["freeze_weights"]

_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")
_LAST_DENSE = re.compile(r"((?:^|\.)layers?\.\d+)\.output\.dense\.weight$")


def freeze_weights(model: nn.Module, patterns: Sequence[str]) -> int:
    """Freeze what the patterns match; return how many tensors.

    Raises:
        ConfigError: a pattern that matches nothing, or nothing left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    frozen = freeze(model, [name for pattern in patterns for name in _expanded(pattern, names)])
    if frozen == len(names):
        raise ConfigError(
            f"frozen is {', '.join(patterns)}, which is every weight of the encoder: nothing could be tuned. Leave some out."
        )
    return frozen


def _expanded(pattern: str, names: Sequence[str]) -> list[str]:
    """The pattern in the words of `freeze`."""
    if pattern == "pooler":
        return [pattern] if any("pooler" in name.split(".") for name in names) else []
    if pattern.startswith("first:"):
        return _first(pattern, names)
    if pattern == "output.dense.weight":
        return [name for name in names if _LAST_DENSE.search(name)] or [pattern]
    return [pattern]


def _first(pattern: str, names: Sequence[str]) -> list[str]:
    said = pattern.removeprefix("first:")
    layers = {int(found[1]) for name in names if (found := _LAYER.search(name))}
    if not said.isdigit() or not 1 <= int(said) <= len(layers):
        raise ConfigError(
            f"frozen: {pattern!r} is not first:N with N from 1 to {len(layers)}, the number of this encoder's layers."
        )
    return [name for name in names if (found := _LAYER.search(name)) and int(found[1]) < int(said)]
