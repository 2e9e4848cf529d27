"""How a run or trial ended, read from its last checkpoint: state, looks, and the weights of the point it goes back to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from retort.models.dual_encoder import DualEncoder
from retort.tuning.course import State
from retort.tuning.freezing import freeze_weights
from retort.tuning.guard import Judgement, Look
from retort.tuning.precise import movement
from retort.tuning.trainer import read_look

__all__ = ["Outcome", "judgement_at", "trial_row"]


@dataclass(frozen=True)
class Outcome:
    """One run that is over."""

    state: State
    before: Look | None
    best_look: Look | None
    best: Mapping[str, Tensor] | None  # None: no point was good
    moved: dict[str, Any]  # `precise.movement` of the trainable weights, from the base to the best point, else the last

    @classmethod
    def of(cls, folder: Path, settings: Mapping[str, Any]) -> Outcome:
        """Read a checkpoint; `settings` as `loop.tune_queries` takes them."""
        base = DualEncoder.load(settings["encoder"].local(), device="cpu", precision="fp32")
        freeze_weights(base.model, settings["frozen"])
        trained = {name: p.detach() for name, p in base.model.named_parameters() if p.requires_grad}
        best = folder / "best.safetensors"
        weights = load_file(best if best.exists() else folder / "weights.safetensors")
        return cls(
            state=State(**json.loads((folder / "state.json").read_text())),
            before=read_look(folder / "before.json"),
            best_look=read_look(folder / "best.json"),
            best=weights if best.exists() else None,
            moved=movement(trained, {name: weights[name] for name in trained}),
        )


def judgement_at(state: State, step: int) -> Judgement | None:
    """What the guard said at this step's look."""
    found = next((entry["judgement"] for entry in state.looks if entry["step"] == step), None)
    return Judgement.from_json(found) if found is not None else None


def trial_row(rate: float, steps: int, outcome: Outcome | None, diverged: str | None = None) -> dict[str, Any]:
    """One row of the sweep's table. A safe trial is told at its best point, any other at the look that stopped it; `best_target` is always
    that of the best good point, None without one."""
    if outcome is None:
        return {
            "rate": rate, "steps": steps, "stopped_at": None, "best_step": 0, "safe": False, "damaging": True, "damaged": ["diverged"],
            "best_target": None, "target": None, "target_change": None, "mean_language_change": None, "worst_language": "diverged", "worst_change": None,
            "worst_low": None, "moved": None, "median_ulps": None, "summary": diverged,
        }  # fmt: skip
    state = outcome.state
    safe = state.stopped_at is None
    told = next(
        (entry for entry in state.looks if entry["step"] == (state.best_step if safe else state.stopped_at)), None
    )
    judgement = judgement_at(state, told["step"]) if told is not None else None
    worst = judgement.worst if judgement is not None else None
    return {
        "rate": rate,
        "steps": steps,
        "stopped_at": state.stopped_at,
        "best_step": state.best_step,
        "best_target": state.best_target,
        "safe": safe,
        "damaging": bool(judgement is not None and judgement.damaged),
        "damaged": judgement.damaged if judgement is not None else [],
        "target": told["target"] if told is not None else None,
        "target_change": judgement.target_change if judgement is not None else None,
        "mean_language_change": judgement.mean_language_change if judgement is not None else None,
        "worst_language": worst.name if worst is not None else None,
        "worst_change": worst.change if worst is not None else None,
        "worst_low": worst.low if worst is not None else None,
        "moved": outcome.moved["moved"],
        "median_ulps": outcome.moved["median_ulps"],
        "summary": judgement.summary if judgement is not None else None,
    }
