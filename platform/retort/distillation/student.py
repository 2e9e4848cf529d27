"""The student before its first step: the base encoder, or some of its layers.

A smaller student keeps the embeddings, the first and the last layer, and layers evenly between them: it starts from
states that fit together better than random ones, and lives in the base's tokenizer, pooling and prefixes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from retort.errors import ConfigError, ModelError
from retort.models.dual_encoder import DualEncoder

__all__ = ["initial_student", "keep_layers"]


def initial_student(
    folder: Path,
    *,
    layers: int | None,
    precision: str = "auto",
    max_tokens: dict[str, int] | None = None,
    device: str | None = None,
) -> DualEncoder:
    """Load the base, with `layers` of its layers (None: all) and cutting texts to `max_tokens` of each side.

    Raises:
        ConfigError: it has fewer layers. ModelError: its layers cannot be told apart from the rest.
    """
    student = DualEncoder.load(folder, device=device, precision=precision, max_tokens=max_tokens)
    if layers is not None:
        keep_layers(student, layers)
    return student


def keep_layers(student: DualEncoder, layers: int) -> list[int]:
    """Drop all but `layers` of the body's layers, in place; return the numbers of those kept."""
    total = int(getattr(student.model.config, "num_hidden_layers", 0))
    stacks = [
        (parent, name, child)
        for parent in student.model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == total
    ]
    if not total or len(stacks) != 1:
        raise ModelError(
            f"{type(student.model).__name__} has no single stack of layers, so a smaller student cannot be cut from it. Leave layers unset."
        )
    if not 1 <= layers <= total:
        raise ConfigError(f"layers is {layers}: the base has {total}. Ask for 1 to {total}.")
    kept = [int(number) for number in np.linspace(0, total - 1, layers).round()] if layers > 1 else [0]
    parent, name, stack = stacks[0]
    setattr(parent, name, nn.ModuleList(stack[number] for number in kept))
    student.model.config.num_hidden_layers = layers
    kinds = getattr(student.model.config, "layer_types", None)  # per layer in some architectures
    if kinds is not None:
        student.model.config.layer_types = [kinds[number] for number in kept]
    return kept
