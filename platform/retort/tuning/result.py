"""From a run that is over to the artefact: weights, their difference to the base's, report, page, card and metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retort.models.dual_encoder import DualEncoder
from retort.progress import Progress
from retort.store import Artefact, Draft, inherited
from retort.tuning.card import CardFacts, model_card
from retort.tuning.config import TuneConfig
from retort.tuning.course import Course
from retort.tuning.delta import write_delta
from retort.tuning.guard import Guard, Judgement
from retort.tuning.outcome import Outcome
from retort.tuning.page import render_page
from retort.tuning.prepare_run import GUARD_FOLDER

__all__ = ["Result", "publish"]

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Result:
    """Everything that is known when the run is over."""

    config: TuneConfig
    inputs: Mapping[str, Artefact]
    course: Course
    outcome: Outcome
    rows: list[dict[str, Any]] | None  # of the sweep
    coverage: Mapping[str, Any]
    warnings: list[str]
    digests: tuple[str, str]  # of the embeddings' files, before and after


def publish(draft: Draft, result: Result, progress: Progress) -> Artefact:
    """Write the folder and the manifest."""
    inputs, outcome = result.inputs, result.outcome
    assert outcome.best is not None, "a run without a good point is not published"
    # Loaded anew: training read shorter queries than the encoder can.
    encoder = DualEncoder.load(inputs["encoder"].local(), device="cpu", precision="fp32")
    space = encoder.passage_space
    encoder.model.load_state_dict(dict(outcome.best))
    judgement = _final_judgement(draft, result)
    report = _report(draft.name, space, result, judgement)
    metrics = _metrics(encoder, space, result, judgement)
    provenance = inherited(inputs.values())
    with draft.folder_for() as target:
        encoder.save(target, passage_space=space)
        metrics["delta"] = _delta(inputs["encoder"], target)
        facts = CardFacts(
            draft.name, inputs, result.config.identity(), metrics, provenance["licences"], provenance["personal_data"]
        )
        (target / "README.md").write_text(model_card(encoder, facts), encoding="utf-8")
        (target / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
        (target / "page.html").write_text(render_page(report), encoding="utf-8")
    _tell(metrics, judgement, progress)
    return draft.publish(metrics={**metrics, **_times(result)}, **provenance)


def _final_judgement(draft: Draft, result: Result) -> Judgement | None:
    """The guard's last word on the point that is published, with the table of all measures."""
    from retort.tuning.loop import local_data  # Ray: only where work is done

    outcome = result.outcome
    if outcome.before is None or outcome.best_look is None:
        return None
    guard = Guard.open(local_data(draft.area) / GUARD_FOLDER)
    return guard.judge(outcome.before, outcome.best_look, result.course.planned_looks)


def _report(name: str, space: str, result: Result, judgement: Judgement | None) -> dict[str, Any]:
    """What the page shows; JSON-ready, without times."""
    outcome, inputs, course = result.outcome, result.inputs, result.course
    before, after = result.digests
    return {
        "name": name,
        "base": str(inputs["encoder"]),
        "embeddings": str(inputs["embeddings"]),
        "passage_space": space,
        "rate": course.learning_rate,
        "rate_found": result.config.learning_rate == "auto",
        "steps": outcome.state.best_step,
        "planned_steps": course.steps,
        "stopped_at": outcome.state.stopped_at,
        "loss": course.loss,
        "frozen": list(result.config.frozen),
        "movement": outcome.moved,
        "looks": outcome.state.looks,
        "before": outcome.before.means() if outcome.before is not None else [],
        "after": outcome.best_look.means() if outcome.best_look is not None else [],
        "judgement": judgement.to_json() if judgement is not None else None,
        "sweep": result.rows,
        "vectors": {"digest_before": before, "digest_after": after, "files": len(inputs["embeddings"].manifest.files)},
        "unguarded": result.config.unguarded,
        "warnings": result.warnings,
        "settings": result.config.identity(),
        "curve": {
            name: [round(row[i], 6) for row in outcome.state.curve] for i, name in enumerate(("loss", "grad_norm"))
        },
    }


def _metrics(encoder: DualEncoder, space: str, result: Result, judgement: Judgement | None) -> dict[str, Any]:
    """What is known after tuning, times left out."""
    state, course, moved = result.outcome.state, result.course, result.outcome.moved
    metrics: dict[str, Any] = {
        "passage_space": space,
        "dimension": encoder.dimension,
        "rate": course.learning_rate,
        "rate_found": result.config.learning_rate == "auto",
        "steps": state.best_step,
        "planned_steps": course.steps,
        "stopped_at": state.stopped_at,
        "unguarded": result.config.unguarded,
        "first_loss": round(state.curve[0][0], 6),
        "last_loss": round(state.curve[-1][0], 6),
        **{name: moved[name] for name in ("weights", "moved", "median_ulps", "p99_ulps", "max_ulps", "largest_change")},
        "vectors_digest_before": result.digests[0],
        "vectors_digest_after": result.digests[1],
        "sweep": result.rows,
        "warnings": result.warnings,
        "precision": state.precision,
        **result.coverage,
    }
    if judgement is None:
        return metrics
    states = [group.state for group in judgement.languages.values()]
    worst = judgement.worst
    change = judgement.target_change
    return metrics | {
        "all_kept": judgement.all_kept,
        "languages": {state: states.count(state) for state in sorted(set(states))},
        "languages_not_kept": sum(state in ("fell", "unclear") for state in states),
        "worst_language": worst.name if worst is not None else None,
        "worst_low": worst.low if worst is not None else None,
        "mean_language_change": judgement.mean_language_change,
        "target_before": judgement.target_before,
        "target_after": (judgement.target_before or 0.0) + change if change is not None else None,
        "target_change": change,
        "target_low": judgement.target_low,
        "target_high": judgement.target_high,
        "better_than_base": change > 0 if change is not None else None,
        "verdict": judgement.summary,
    }


def _times(result: Result) -> dict[str, Any]:
    state = result.outcome.state
    busy = max(state.busy_s, 1e-9)
    return {
        "steps_per_s": round(len(state.curve) / busy, 3),
        "examples_per_s": round(result.course.batch_queries * len(state.curve) / busy, 2),
        "data_wait_share": round(state.wait_s / busy, 4),
        "training_s": round(state.busy_s, 1),
        "look_s": round(state.look_s, 1),
    }


def _delta(base: Artefact, folder: Path) -> dict[str, Any] | None:
    """Write the difference to the base's weights; None for a base whose weights are not one file."""
    if WEIGHTS not in base.files("*.safetensors"):
        return None
    stats: dict[str, Any] = write_delta(base.local(WEIGHTS), folder / WEIGHTS, folder / "delta.safetensors")
    return stats


def _tell(metrics: Mapping[str, Any], judgement: Judgement | None, progress: Progress) -> None:
    moved = (
        f"{metrics['moved']:.0%} of the weights moved, by {metrics['median_ulps']:.0f} units in the last place (median)"
    )
    if judgement is None:
        progress.say(f"Tuned without a guard: nothing is known of any language. {moved}.")
        return
    target = judgement.target_change
    progress.say(
        f"{judgement.summary} {moved}."
        + (
            f" Dev MRR@10 changed by {target:+.4f} to {(judgement.target_before or 0) + target:.4f}."
            if target is not None
            else ""
        )
        + (" No language was watched." if metrics["unguarded"] else "")
        + (
            f" The look after {metrics['stopped_at']} steps ended the run; this is the point of {metrics['steps']}."
            if metrics["stopped_at"]
            else ""
        )
    )
    if target is not None and target <= 0:
        progress.say(
            "The tuned encoder is no better than its base on the dev queries: keep the base, or learn from more or other queries."
        )
