"""Linear layers laid out once for inference on a CPU, as oneDNN wants them.

    LaidOut                     the weights of one product, laid out
    pack(model, precision)      replaces the linear layers of a module by such; returns whether it did

Left alone, torch rounds float32 weights to bfloat16 and lays them out anew for every product: for one short query that is
much of the time, and it pushes all else out of the cache. bfloat16 gives the same numbers bit for bit, float32 the same
within its rounding. The operators are those that torch.compile uses for a frozen model; where they are missing or do not give
the right product, nothing is changed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn

from retort.models.backend import Precision

__all__ = ["LaidOut", "PackedLinear", "can_lay_out", "pack"]

_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


class LaidOut:
    """Weights and bias of one product."""

    __slots__ = ("_bias", "_weights")

    def __init__(self, weights: Tensor, bias: Tensor | None) -> None:
        """Lay out weights [out, in], of the dtype that is to be calculated in, as is the bias [out]."""
        self._weights = torch.ops.mkldnn._reorder_linear_weight(weights.detach().contiguous())
        self._bias = None if bias is None else bias.detach()

    @classmethod
    def of(cls, layers: Sequence[nn.Linear], dtype: torch.dtype) -> Self:
        """Several layers of one input as one, their outputs end to end; all with a bias, or one layer."""
        weights = torch.cat([layer.weight.detach().to(dtype) for layer in layers])
        biases = [layer.bias.detach().to(dtype) for layer in layers if layer.bias is not None]
        if biases and len(biases) < len(layers):
            raise ValueError("some of the layers have a bias, others none")
        return cls(weights, torch.cat(biases) if biases else None)

    def __call__(self, values: Tensor, then: Literal["none", "gelu"] = "none") -> Tensor:
        """[..., in] of that dtype -> [..., out]; with "gelu" (by the error function) of what is not rounded yet."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(values, self._weights, self._bias, then, [], "none")
        return product


class PackedLinear(nn.Module):
    """A linear layer that can no longer be trained, saved or moved. Takes any float dtype, returns the one it is packed in."""

    weight = None  # not to be had any more; some models look whether it is a tensor

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features, self._dtype = layer.in_features, layer.out_features, dtype
        self._laid_out = LaidOut.of([layer], dtype)

    def forward(self, values: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        return self._laid_out(values.to(self._dtype))


def pack(model: nn.Module, precision: Precision) -> bool:
    """Replace all plain linear layers below `model` (on a CPU, not to be trained again); False where that cannot be done here."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if not can_lay_out(dtype):
        return False
    packed: dict[int, PackedLinear] = {}  # one layer may stand in several places
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                if id(child) not in packed:
                    packed[id(child)] = PackedLinear(child, dtype)
                setattr(module, name, packed[id(child)])
    return True


@functools.cache
def can_lay_out(dtype: torch.dtype) -> bool:
    """Whether the operators are there and calculate rightly."""
    layer, values = nn.Linear(32, 16), torch.linspace(-1, 1, 3 * 32).reshape(3, 32)
    try:
        with torch.inference_mode():
            laid_out = LaidOut.of([layer], dtype)
            found = laid_out(values.to(dtype)), laid_out(values.to(dtype), "gelu")
    except (RuntimeError, AttributeError):  # no oneDNN in this build, or not for this processor
        return False
    product = layer(values).detach()
    wanted = product, nn.functional.gelu(product)
    return all(
        torch.allclose(one.float(), other, atol=_TOLERANCE[dtype]) for one, other in zip(found, wanted, strict=True)
    )
