"""Linear layers laid out once for inference on a CPU, as oneDNN or FBGEMM wants them.

    laid_out(layers, dtype)     the weights of one product, laid out: LaidOut, or HalfLaidOut for float16
    pack(model, precision)      replaces the linear layers of a module by such; returns whether it did
    half_weights_pay()          whether weights of 16 bits make products of a few tokens faster here

Left alone, torch rounds float32 weights to bfloat16 and lays them out anew for every product: for one short query that is
much of the time, and it pushes all else out of the cache. bfloat16 gives the same numbers bit for bit, float32 the same
within its rounding. The operators are those that torch.compile uses for a frozen model; where they are missing or do not give
the right product, nothing is changed.

A product of a few tokens waits for its weights to come from memory. Where the processor has no bfloat16, FBGEMM keeps them in
float16 (11 bits, where bfloat16 has 8), half as many bytes, and calculates in float32.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from retort.models.backend import Precision, kept_speedup

__all__ = ["PackedLinear", "can_lay_out", "half_weights_pay", "laid_out", "pack", "used_with"]

_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 2e-3}
_NEEDED_SPEEDUP = 1.15
_TRIAL_TOKENS = 16
_TRIAL_LAYERS, _TRIAL_DIM, _TRIAL_INNER = 12, 384, 1536  # 27 MiB: more than a core's own caches hold


class LaidOut(nn.Module):
    """Weights and bias of one product, to be called only."""

    def __init__(self, weights: Tensor, bias: Tensor | None) -> None:
        """Lay out weights [out, in], float32 or bfloat16, and a bias [out] of the same dtype."""
        super().__init__()
        self._weights: Tensor = torch.ops.mkldnn._reorder_linear_weight(weights.detach().contiguous())
        self._bias = None if bias is None else bias.detach()

    def forward(self, values: Tensor, then: str = "none") -> Tensor:
        """[..., in] of that dtype -> [..., out]; with "gelu" (by the error function) of what is not rounded yet."""
        return torch.ops.mkldnn._linear_pointwise(values, self._weights, self._bias, then, [], "none")  # type: ignore[no-any-return]


class HalfLaidOut(nn.Module):
    """The same with weights in float16, for float32."""

    def __init__(self, weights: Tensor, bias: Tensor | None) -> None:
        """Lay out weights [out, in] and a bias [out]."""
        super().__init__()
        whole = None if bias is None else bias.detach().float()
        self._weights: Any = torch.ops.quantized.linear_prepack_fp16(weights.detach().float().contiguous(), whole)

    def forward(self, values: Tensor, then: str = "none") -> Tensor:
        """[..., in] float32 -> [..., out]; with "gelu" of it."""
        product: Tensor = torch.ops.quantized.linear_dynamic_fp16(values, self._weights)
        return nn.functional.gelu(product) if then == "gelu" else product


def laid_out(layers: Sequence[nn.Linear], dtype: torch.dtype) -> nn.Module:
    """Several layers of one input as one, their outputs end to end, weights kept in `dtype`; all with a bias, or one layer."""
    weights = torch.cat([layer.weight.detach().to(dtype) for layer in layers])
    biases = [layer.bias.detach().to(used_with(dtype)) for layer in layers if layer.bias is not None]
    if biases and len(biases) < len(layers):
        raise ValueError("some of the layers have a bias, others none")
    return (HalfLaidOut if dtype == torch.float16 else LaidOut)(weights, torch.cat(biases) if biases else None)


def used_with(weights: torch.dtype) -> torch.dtype:
    """What is calculated in with weights of this dtype."""
    return torch.float32 if weights == torch.float16 else weights


class PackedLinear(nn.Module):
    """A linear layer that can no longer be trained, saved or moved. Takes any float dtype, returns the one it is packed in."""

    weight = None  # not to be had any more; some models look whether it is a tensor

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features, self._dtype = layer.in_features, layer.out_features, dtype
        self._laid_out = laid_out([layer], dtype)

    def forward(self, values: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        product: Tensor = self._laid_out(values.to(used_with(self._dtype)))
        return product


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
    """Whether the operators for weights of this dtype are there and calculate rightly."""
    layer, values = nn.Linear(32, 16), torch.linspace(-1, 1, 3 * 32).reshape(3, 32)
    given = values.to(used_with(dtype))
    try:
        with torch.inference_mode():
            product_of = laid_out([layer], dtype)
            found = product_of(given), product_of(given, "gelu")
    except (RuntimeError, AttributeError):  # not in this build of torch, or not for this processor
        return False
    product = layer(values).detach()
    wanted = product, nn.functional.gelu(product)
    return all(
        torch.allclose(one.float(), other, atol=_TOLERANCE[dtype]) for one, other in zip(found, wanted, strict=True)
    )


@functools.cache
def half_weights_pay() -> bool:
    """Whether products of a few tokens are faster by a seventh with float16 weights than with float32 ones; measured once per machine."""
    return can_lay_out(torch.float16) and (
        not can_lay_out(torch.float32) or kept_speedup("fp16-weights", _half_weights_speedup) >= _NEEDED_SPEEDUP
    )


def _half_weights_speedup(rounds: int = 5) -> float:
    """Of a row of layers larger than a core's own caches, each used in turn, as a model's are."""
    values = torch.randn(_TRIAL_TOKENS, _TRIAL_DIM)
    weights = [torch.randn(_TRIAL_INNER, _TRIAL_DIM) for _ in range(_TRIAL_LAYERS)]
    bias = torch.zeros(_TRIAL_INNER)
    rows: dict[torch.dtype, list[Any]] = {
        torch.float32: [LaidOut(one, bias) for one in weights],
        torch.float16: [HalfLaidOut(one, bias) for one in weights],
    }
    best = dict.fromkeys(rows, float("inf"))
    with torch.inference_mode():
        # In turns, and the best of each: another process's burst then hits both.
        for _ in range(rounds):
            for dtype, layers in rows.items():
                began = time.perf_counter()
                for layer in layers:
                    layer(values)
                best[dtype] = min(best[dtype], time.perf_counter() - began)
    return best[torch.float32] / best[torch.float16]
