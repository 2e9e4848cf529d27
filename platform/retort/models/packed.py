"""Linear layers laid out once for inference on a CPU, as oneDNN wants them.

    pack(model, precision)      replaces the linear layers of a module; returns whether it did

Left alone, torch rounds float32 weights to bfloat16 and lays them out anew for every product: for one short query that is
much of the time, and it pushes all else out of the cache. bfloat16 gives the same numbers bit for bit, float32 the same
within its rounding. The operators are those that torch.compile uses for a frozen model; where they are missing or do not give
the right product, nothing is changed.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from retort.models.backend import Precision

__all__ = ["PackedLinear", "pack"]

_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


class PackedLinear(nn.Module):
    """A linear layer that can no longer be trained, saved or moved. Takes any float dtype, returns the one it is packed in."""

    weight = None  # not to be had any more; some models look whether it is a tensor

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features, self._dtype = layer.in_features, layer.out_features, dtype
        self._packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().to(dtype).contiguous())
        self._bias = None if layer.bias is None else layer.bias.detach().to(dtype)

    def forward(self, values: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            values.to(self._dtype), self._packed, self._bias, "none", [], ""
        )
        return product


def pack(model: nn.Module, precision: Precision) -> bool:
    """Replace all plain linear layers below `model` (on a CPU, not to be trained again); False where that cannot be done here."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if not _works(dtype):
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
def _works(dtype: torch.dtype) -> bool:
    """Whether the operators are there and multiply rightly."""
    layer, values = nn.Linear(32, 16), torch.linspace(-1, 1, 3 * 32).reshape(3, 32)
    try:
        with torch.inference_mode():
            found = PackedLinear(layer, dtype)(values)
    except (RuntimeError, AttributeError):  # no oneDNN in this build, or not for this processor
        return False
    return torch.allclose(found.float(), layer(values).detach(), atol=_TOLERANCE[dtype])
