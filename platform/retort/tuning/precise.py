"""AdamW whose smallest steps act, and a measure of what really moved.

Adam moves a weight by about the learning rate a step, and half a unit in the last place of a float32 weight near 1 is
3e-8 to 6e-8: added to the weight itself, a step of 2e-8 is rounded to nothing, a thousand times in a row. So the sum is
kept elsewhere and the model's float32 weights are its rounded values:

    "float64"   masters and moments in float64
    "kahan"     float32 with the rounding error of each addition carried to the next (Kahan 1965): a third of the memory
    "float32"   neither, for comparison

Neighbour: `trainer.py` calls `step`, `tune.py` publishes what `movement` finds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Master", "PreciseAdamW", "movement", "ulps_between"]

Master = Literal["float64", "kahan", "float32"]

CHUNK = 1 << 16
"""Numbers updated together: all their state (2 MiB in float64) stays in a core's cache, which doubles the speed."""


class PreciseAdamW:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) with a master copy that is finer than the weights.

    Without weight decay at "float32" it takes torch.optim.AdamW's steps.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        master: Master = "float64",
    ) -> None:
        """Take (name, parameter) pairs; frozen ones are left out. Only matrices decay."""
        self.learning_rate = learning_rate
        self.steps = 0
        self._betas, self._eps, self._decay, self._master = betas, eps, weight_decay, master
        self._parameters = {name: p for name, p in parameters if p.requires_grad}
        assert self._parameters, "nothing to train"
        assert all(p.dtype == torch.float32 for p in self._parameters.values()), "weights are float32"
        wide = torch.float64 if master == "float64" else torch.float32
        self._state: dict[str, dict[str, Tensor]] = {}
        for name, p in self._parameters.items():
            flat = p.detach().reshape(-1)
            state = {
                "mean": torch.zeros_like(flat, dtype=wide),
                "square": torch.zeros_like(flat, dtype=wide),
            }
            if master == "float64":
                state["master"] = flat.to(torch.float64, copy=True)
            elif master == "kahan":
                state["lost"] = torch.zeros_like(flat)
            self._state[name] = state

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> None:
        """Move every parameter that has a gradient; gradients count `scale` times (clipping)."""
        self.steps += 1
        corrections = tuple(1 - beta**self.steps for beta in self._betas)
        for name, p in self._parameters.items():
            if p.grad is None:
                continue
            decay = self._decay * self.learning_rate if p.ndim > 1 else 0.0
            for weight, grad, state in self._chunks(p, p.grad, self._state[name]):
                self._update(weight, grad, state, corrections, decay, scale)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self._parameters.values():
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Everything that a run needs to go on exactly."""
        return {"steps": self.steps, "state": self._state}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave; the weights themselves are loaded by the caller."""
        self.steps = int(saved["steps"])
        for name, state in self._state.items():
            for key, value in state.items():
                value.copy_(saved["state"][name][key])

    @staticmethod
    def _chunks(
        p: Tensor, grad: Tensor, state: dict[str, Tensor]
    ) -> Iterator[tuple[Tensor, Tensor, dict[str, Tensor]]]:
        # A device with thousands of cores wants the whole tensor; a CPU core wants what fits its cache.
        size = CHUNK if p.device.type == "cpu" else max(1, p.numel())
        weight, gradient = p.detach().view(-1), grad.reshape(-1)
        for start in range(0, p.numel(), size):
            part = slice(start, start + size)
            yield weight[part], gradient[part], {key: value[part] for key, value in state.items()}

    def _update(
        self,
        weight: Tensor,
        grad: Tensor,
        state: dict[str, Tensor],
        corrections: tuple[float, ...],
        decay: float,
        scale: float,
    ) -> None:
        mean, square = state["mean"], state["square"]
        g = grad.to(mean.dtype)
        if scale != 1.0:
            g = g * scale
        mean.lerp_(g, 1 - self._betas[0])
        square.mul_(self._betas[1]).addcmul_(g, g, value=1 - self._betas[1])
        denominator = (square / corrections[1]).sqrt_().add_(self._eps)
        step = -self.learning_rate / corrections[0]
        if self._master == "float64":
            master = state["master"]
            if decay:
                master.mul_(1 - decay)
            master.addcdiv_(mean, denominator, value=step)
            weight.copy_(master)
            return
        change = (mean / denominator).mul_(step)
        if decay:
            change.sub_(weight, alpha=decay)
        if self._master == "kahan":
            change += state["lost"]
            before = weight.clone()
            weight += change
            torch.sub(change, weight - before, out=state["lost"])
        else:
            weight += change


def ulps_between(before: Tensor, after: Tensor) -> Tensor:
    """How many float32 numbers lie from one to the other, int64, same shape; 0: not moved. -0.0 and 0.0 are one apart."""
    return (_places(after) - _places(before)).abs()


def _places(x: Tensor) -> Tensor:
    """Each number's place in the order of all float32 numbers."""
    bits = x.detach().cpu().float().contiguous().view(torch.int32).to(torch.int64)
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF) - 1, bits)


def movement(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Any]:
    """How many weights moved, and how far.

    Args:
        before, after: the trainable weights by name, float32, same names and shapes.

    Returns:
        weights (their number), moved (share whose float32 value differs), of those that moved the median_ulps, p99_ulps
        and max_ulps (units in the last place; 0 where none did), largest_change (absolute), and groups: the share moved per tensor, layers
        taken together.
    """
    assert before.keys() == after.keys(), "the same tensors"
    distances: list[Any] = []
    groups: dict[str, list[int]] = {}
    largest, total = 0.0, 0
    for name, old in before.items():
        ulps = ulps_between(old, after[name]).reshape(-1).numpy()
        distances.append(ulps[ulps > 0])
        total += ulps.size
        group = groups.setdefault(re.sub(r"\.\d+\.", ".*.", name), [0, 0])
        group[0] += int(np.count_nonzero(ulps))
        group[1] += ulps.size
        if ulps.size:
            largest = max(
                largest, float((after[name].detach().cpu().double() - old.detach().cpu().double()).abs().max())
            )
    moved = np.concatenate(distances) if distances else np.zeros(0, dtype=np.int64)
    median, high = np.percentile(moved, [50, 99]) if moved.size else (0.0, 0.0)
    return {
        "weights": total,
        "moved": moved.size / total if total else 0.0,
        "median_ulps": float(median),
        "p99_ulps": float(high),
        "max_ulps": int(moved.max()) if moved.size else 0,
        "largest_change": largest,
        "groups": {name: hit / count if count else 0.0 for name, (hit, count) in sorted(groups.items())},
    }
