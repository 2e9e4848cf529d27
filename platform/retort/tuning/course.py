"""The numbers of a run, and where it stands; plain, so that they travel to workers and into checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from retort.tuning.precise import Master

__all__ = ["Course", "State", "look_steps"]


@dataclass(frozen=True)
class Course:
    """How to tune."""

    steps: int
    batch_queries: int
    negatives: int
    random_share: float
    loss: str  # "triplet" | "infonce" | "distil"
    margin: float
    temperature: float
    teacher_temperature: float
    learning_rate: float
    warmup_steps: int
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    clip_norm: float | None
    master: Master
    look_at: tuple[int, ...]  # steps after which the guard looks
    planned_looks: int  # over everything that is chosen from, the sweep's trials included
    guarded: bool  # whether a look may end the run
    seed: int
    forward_tokens: int | None  # None: what suits the worker's device
    precision: str  # "fp32" | "bf16" | "auto": what is faster on every worker


@dataclass
class State:
    """Where a run is; written beside the weights in each checkpoint."""

    step: int = 0  # steps done
    best_step: int = 0  # the point to go back to; 0: the untuned encoder
    best_target: float | None = None  # its MRR@10 on the dev queries, where there are any
    stopped_at: int | None = None  # the look that ended the run
    looks: list[dict[str, Any]] = field(default_factory=list)  # step, target, judgement
    curve: list[list[float]] = field(default_factory=list)  # per step: loss, gradient norm
    busy_s: float = 0.0  # time in steps, of all runs up to the checkpoint
    wait_s: float = 0.0  # of it, time waited for data
    look_s: float = 0.0  # time in looks
    precision: str = ""  # of matrix products, as the workers chose it


def look_steps(steps: int, looks: int) -> tuple[int, ...]:
    """Steps after which the guard looks: evenly spaced, the last at the end."""
    return tuple(sorted({round(steps * (number + 1) / looks) for number in range(looks)}))
