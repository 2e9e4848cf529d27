"""A pipeline as YAML: named steps in order, each a job with its config; `$step` or `$step.output` names what an earlier one made.

name: quickstart
seed: 13
steps:
  ingest: {job: ingest, source: sample}
  base:   {job: embed, corpus: $ingest.corpus, encoder: minilm}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from retort.config import validated
from retort.errors import ConfigError, NotFoundError
from retort.pipeline.jobs import job

REFERENCE = re.compile(r"\$([A-Za-z][A-Za-z0-9_-]*)(?:\.([A-Za-z][A-Za-z0-9_-]*))?")
SHARED_FIELDS = ("store", "seed", "resources")


class Plan(BaseModel):
    """A pipeline; `store`, `seed` and `resources` hold for every step that does not say otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Name of the pipeline; artefacts are named NAME-STEP.")
    store: str | None = Field(None, description="Store URI of all steps.")
    seed: int = Field(13, ge=0, description="Seed of all steps.")
    resources: dict[str, Any] = Field(default_factory=dict, description="Workers, CPUs, GPUs and threads of all steps.")
    steps: dict[str, dict[str, Any]] = Field(description="Step name -> {job: NAME, field: value...}, in order.")


def shipped_plans() -> list[str]:
    """Names of the pipelines inside the package."""
    folder = resources.files("retort.pipeline") / "plans"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_plan(name_or_path: str, overrides: Mapping[str, Any] | None = None) -> Plan:
    """Read a pipeline by path, or by name from the package; `overrides` maps `step.field` (or a top-level field) to a value.

    Raises NotFoundError, or ConfigError naming the file and the field.
    """
    path: Traversable = Path(name_or_path)
    if name_or_path in shipped_plans():
        path = resources.files("retort.pipeline") / "plans" / f"{name_or_path}.yaml"
    elif not path.is_file():
        raise NotFoundError(
            f"There is no pipeline {name_or_path!r}: no such file, and the package ships {', '.join(shipped_plans())}."
        )
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{name_or_path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name_or_path} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{name_or_path} holds {type(values).__name__}; expected fields name and steps.")
    for field, value in (overrides or {}).items():
        _override(values, field, value)
    plan = validated(Plan, values, name_or_path)
    _check(plan, name_or_path)
    return plan


def _override(values: dict[str, Any], field: str, value: Any) -> None:
    step, _, rest = field.partition(".")
    if not rest:
        values[step] = value
        return
    steps = values.get("steps")
    target = steps if isinstance(steps, dict) else {}
    if step not in target:
        there = ", ".join(map(str, target)) or "none"
        raise ConfigError(f"Cannot set {field!r}: the pipeline has no step {step!r}. Steps: {there}.")
    *parents, last = rest.split(".")
    for parent in [step, *parents]:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise ConfigError(f"Cannot set {field!r}: {parent!r} is {target!r}, which has no fields.")
    target[last] = value


def _check(plan: Plan, where: str) -> None:
    """Every step's job exists, every field is known and every reference points back, before anything runs."""
    seen: list[str] = []
    for name, fields in plan.steps.items():
        if not isinstance(fields.get("job"), str):
            given = f"job {fields['job']!r}, which is no name" if "job" in fields else "no job"
            raise ConfigError(f"{where}: step {name!r} has {given}. Write for example `job: ingest`.")
        for value in references(fields):
            match = REFERENCE.fullmatch(value)
            if match and match[1] not in seen:
                raise ConfigError(
                    f"{where}: step {name!r} refers to {value!r}, which is no earlier step. Earlier: {', '.join(seen) or 'none'}."
                )
        step_config(plan, name, {}, where)
        seen.append(name)


def references(fields: Mapping[str, Any]) -> list[str]:
    """What a step's fields refer to (`$step`, `$step.output`), alone or in a list."""
    values = [one for value in fields.values() for one in (value if isinstance(value, list) else [value])]
    return [value for value in values if isinstance(value, str) and value.startswith("$")]


def _resolved(value: Any, made: Mapping[str, str]) -> Any:
    return made.get(value, value) if isinstance(value, str) and value.startswith("$") else value


def step_config(plan: Plan, name: str, made: Mapping[str, str], where: str) -> Any:
    """The config model of one step, with references replaced by the URIs in `made` where they are known."""
    fields = dict(plan.steps[name])
    chosen = job(fields.pop("job"))
    values: dict[str, Any] = {"seed": plan.seed, "resources": plan.resources, "name": f"{plan.name}-{name}"}
    if plan.store:
        values["store"] = plan.store
    for field, value in fields.items():
        values[field] = [_resolved(one, made) for one in value] if isinstance(value, list) else _resolved(value, made)
    return chosen.config.validated(values, f"{where}, step {name!r}")
