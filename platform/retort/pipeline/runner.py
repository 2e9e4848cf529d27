"""Running a pipeline: each step in turn, each skipped if its artefact exists, inside one connection to Ray."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from retort.errors import ConfigError
from retort.pipeline.jobs import job
from retort.pipeline.plan import Plan, references, step_config
from retort.progress import QUIET, Progress
from retort.runtime.connecting import connected
from retort.store import Artefact


@dataclass
class PipelineRun:
    """What a pipeline made: `$step` or `$step.output` -> artefact, and the seconds each step took."""

    artefacts: dict[str, Artefact] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __getitem__(self, reference: str) -> Artefact:
        return self.artefacts[reference]


def run_pipeline(plan: Plan, progress: Progress = QUIET) -> PipelineRun:
    """Run all steps; a step whose inputs and config are unchanged is not done again (its artefact's key exists)."""
    run = PipelineRun()
    with connected():
        for number, (name, fields) in enumerate(plan.steps.items(), 1):
            began = time.monotonic()
            made = {reference: artefact.uri for reference, artefact in run.artefacts.items()}
            missing = [value for value in references(fields) if value not in made]
            if missing:
                outputs = [reference for reference in made if reference.startswith(missing[0].split(".")[0])]
                raise ConfigError(f"Step {name!r} refers to {missing[0]!r}; that step made {', '.join(outputs)}.")
            chosen = job(fields["job"])
            progress.say(f"[{number}/{len(plan.steps)}] {name}: {chosen.summary}")
            outcome = chosen.step(step_config(plan, name, made, plan.name), progress=progress)
            if isinstance(outcome, Artefact):
                run.artefacts[f"${name}"] = outcome
            else:
                for output, artefact in outcome.items():
                    run.artefacts[f"${name}.{output}"] = artefact
            run.seconds[name] = time.monotonic() - began
    return run
