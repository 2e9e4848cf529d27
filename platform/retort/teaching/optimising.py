"""What moves in a training run, and how fast: frozen weights, dropout, learning rates, seeds. Pure of data and devices."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from retort.errors import ConfigError

__all__ = ["freeze", "learning_rate_factor", "mix_seed", "parameter_groups", "set_dropout"]


def learning_rate_factor(step: int, steps: int, warmup_share: float, round_: int = 0, rounds: int = 1) -> float:
    """Return the share of the peak learning rate at `step` (0-based): linear up over the warm-up, then linear to zero.

    Over several `rounds` of as many steps each it falls once. Each round begins with a warm-up, for its optimiser is new, up to where the
    fall is by then.
    """
    warmup = round(steps * warmup_share)
    whole, done = rounds * steps, round_ * steps + step
    fall = min(1.0, max(0.0, (whole - done) / max(1, whole - warmup)))
    return fall * (step + 1) / warmup if step < warmup else fall


def freeze(module: nn.Module, patterns: Sequence[str]) -> int:
    """Freeze the parameters whose name has a pattern's dotted words, such as `embeddings` or `layer.0`; return how many.

    Raises:
        ConfigError: a pattern that matches nothing.
    """
    names = [name for name, _ in module.named_parameters()]
    frozen: set[str] = set()
    for pattern in patterns:
        hits = [name for name in names if fnmatch.fnmatch(f".{name}.", f"*.{pattern}.*")]
        if not hits:
            groups = sorted({part for name in names for part in name.split(".")[:-1] if not part.isdigit()})
            raise ConfigError(
                f"Nothing to freeze is called {pattern!r}: expected one of {', '.join(groups)}, or layer.N."
            )
        frozen.update(hits)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return len(frozen)


def set_dropout(module: nn.Module, share: float) -> None:
    """Set every dropout of the module; the attention's own rate, where it is a number and no layer, too."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = share
        if isinstance(getattr(part, "attention_dropout", None), float):
            part.attention_dropout = share  # type: ignore[assignment]


def parameter_groups(
    module: nn.Module, learning_rate: float, head_learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Split parameters: the new head learns at its own rate; biases and LayerNorm gains are not decayed."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            head = any(word in name.split(".") for word in ("classifier", "pooler", "score"))
            rate = head_learning_rate if head else learning_rate
            groups.setdefault((rate, weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def mix_seed(*parts: int) -> int:
    """Mix numbers into one seed."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
