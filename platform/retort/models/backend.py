"""Where a model runs and in which precision; decided by asking the machine, never assumed.

bfloat16 makes a CPU with AMX or AVX512-BF16 about three times faster and one without it about 180 times slower, and the
CPU's name says nothing reliable about it. So `pick_precision("auto")` measures a small matmul + GELU in both, once per
machine and torch version, and keeps the answer in the node cache.

Neighbours: `retort/resources.py` for thread counts, `attention.py` for the attention kernel.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import platform
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from retort.errors import ConfigError
from retort.store import cache_root

__all__ = [
    "Precision",
    "autocast",
    "default_token_budget",
    "kept_speedup",
    "measure_bf16_speedup",
    "pick_device",
    "pick_precision",
    "shared_precision",
    "training_token_budget",
]

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16"]

NEEDED_SPEEDUP = 1.2  # below it, bf16's rounding buys too little
# MiniLM on one thread of an EPYC: 2,865 tokens/s at 512, 2,782 at 1,024, 2,390 at 2,048, 1,994 at 8,192 (caches).
CPU_TOKENS = 1024
CUDA_TOKENS = 65536
CUDA_TRAINING_TOKENS = 16384  # activations are kept for the backward pass


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """Return the device asked for; with None, CUDA where there is one, else the CPU.

    Raises:
        ConfigError: no such device on this machine.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"Device {device!r} is unknown: expected 'cpu', 'cuda' or 'cuda:N'.") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"Device {device!r} is not on this machine: torch sees {torch.cuda.device_count()} CUDA devices."
        )
    return chosen


def pick_precision(device: str | torch.device | None = None, precision: str = "auto") -> Precision:
    """Return "fp32" or "bf16": the one asked for, or for "auto" what is faster on this device.

    CUDA gets bf16 where the GPU has it; a CPU gets it when the cached measurement says that it is faster by a fifth.

    Raises:
        ConfigError: another word than auto, fp32, bf16.
    """
    if precision in get_args(Precision):
        return precision  # type: ignore[return-value]
    if precision != "auto":
        raise ConfigError(
            f"Precision {precision!r} is unknown: expected 'auto', {', '.join(map(repr, get_args(Precision)))}."
        )
    chosen = pick_device(device)
    if chosen.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if chosen.type != "cpu":
        return "fp32"
    return "bf16" if _cpu_bf16_speedup() >= NEEDED_SPEEDUP else "fp32"


def shared_precision(device: torch.device, precision: str = "auto") -> Precision:
    """As `pick_precision`, but the same for all workers that train together: bf16 only where each of them is faster with it.

    With torch's process group up, all of them must call this.
    """
    mine = pick_precision(device, precision)
    if not (dist.is_available() and dist.is_initialized()):
        return mine
    all_faster = torch.tensor(float(mine == "bf16"), device=device)
    dist.all_reduce(all_faster, op=dist.ReduceOp.MIN)
    return "bf16" if bool(all_faster) else "fp32"


def autocast(
    precision: str = "auto", device: str | torch.device | None = None
) -> contextlib.AbstractContextManager[object]:
    """Return a context in which matrix products run in this precision; for fp32 it switches autocast off."""
    chosen = pick_device(device)
    return torch.autocast(chosen.type, dtype=torch.bfloat16, enabled=pick_precision(chosen, precision) == "bf16")


def default_token_budget(device: torch.device) -> int:
    """Return padded tokens a batch for inference: what keeps this device busy and fits easily."""
    return CUDA_TOKENS if device.type == "cuda" else CPU_TOKENS


def training_token_budget(device: torch.device) -> int:
    """Return padded tokens of one forward pass in training."""
    return CUDA_TRAINING_TOKENS if device.type == "cuda" else CPU_TOKENS


def measure_bf16_speedup(budget_s: float = 0.5) -> float:
    """Return how many times faster a small matmul + GELU runs in bf16 than in fp32 on the CPU, in about `budget_s`."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 384, generator=generator)  # [tokens, dim]
    weights = torch.randn(384, 1536, generator=generator)  # [dim, inner]
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    deadline = time.monotonic() + budget_s
    rounds = 0
    # In turns, and the best of each: another process's burst then hits both.
    while rounds < 2 or (time.monotonic() < deadline and rounds < 50):
        for dtype in best:
            best[dtype] = min(best[dtype], _time(inputs.to(dtype), weights.to(dtype)))
        rounds += 1
        if rounds >= 2 and best[torch.bfloat16] > 5 * best[torch.float32]:
            break
    return best[torch.float32] / best[torch.bfloat16]


def _time(inputs: Tensor, weights: Tensor) -> float:
    began = time.perf_counter()
    with torch.inference_mode():
        torch.nn.functional.gelu(inputs @ weights)
    return time.perf_counter() - began


@functools.lru_cache(maxsize=1)
def _cpu_bf16_speedup() -> float:
    return kept_speedup("bf16", measure_bf16_speedup)


def kept_speedup(what: str, measure: Callable[[], float]) -> float:
    """How many times faster this processor is with `what`: from the node cache where it was measured before, else measured and kept."""
    path = _record_path(what)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return float(json.loads(path.read_text())[f"{what}_speedup"])
    speedup = measure()
    logger.info("%s on this CPU is %.2f times as fast as fp32; kept in %s", what, speedup, path)
    with contextlib.suppress(OSError):  # a read-only home: measured anew by each process
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{uuid.uuid4().hex[:8]}.part")
        temporary.write_text(json.dumps({f"{what}_speedup": round(speedup, 4)}))
        temporary.replace(path)
    return speedup


def _record_path(what: str) -> Path:
    """Return where this machine's measurement is kept; another CPU or torch has another file."""
    machine = "|".join([_cpu_name(), torch.__version__, torch.backends.cpu.get_cpu_capability()])
    return cache_root() / "backend" / f"{what}-{hashlib.sha256(machine.encode()).hexdigest()[:16]}.json"


def _cpu_name() -> str:
    """Return model and flags of the CPU: a home shared by several machines must not share the measurement."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        wanted = {line.strip() for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
        if wanted:
            return "|".join(sorted(wanted))
    return platform.processor() or platform.machine()
