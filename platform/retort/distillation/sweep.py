"""The small search on Ray Tune: short runs on the same data, judged by MRR@10 on the dev pool, the worse ones stopped early.

Each trial is `loop.teach_student` in one process with the whole batch. After each look at the dev pool its row is written
to the draft's scratch folder. A search that was killed goes on: a trial whose figures are known tells them to the scheduler
again in place of training, so that what is stopped and what goes on is decided by all of them.

Neighbours: `search_space.py` holds what is tried, `distil.py` trains with what was found.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import ray.tune
from ray.tune.schedulers import ASHAScheduler

from retort.distillation.course import Course
from retort.distillation.loop import teach_student
from retort.distillation.search_space import SearchSettings, best_trial, trial_steps, values_of
from retort.errors import RetortError, StorageError
from retort.progress import Progress
from retort.resources import Resources
from retort.runtime.connecting import connected
from retort.runtime.loop import WorkerLink
from retort.runtime.trials import error_of, last_words, run_trials, told
from retort.store import Draft
from retort.store.files import FileArea
from retort.teaching.trainer import NotFiniteError

__all__ = ["search"]

FOLDER = "_search"


def search(
    settings: SearchSettings,
    given: Mapping[str, Any],
    course: Course,
    resources: Resources,
    draft: Draft,
    progress: Progress,
    max_failures: int,
) -> dict[str, Any]:
    """Try `settings.trials` values; return {"values": the best trial's, "steps", "trials": rows}, JSON-ready.

    `given` are the settings of `loop.teach_student`; its course is replaced. The trials must be able to look at a dev pool.

    Raises:
        NotFiniteError: every trial's loss became infinite or not a number. StorageError: trials were lost too often.
    """
    found = f"{FOLDER}/found.json"
    if draft.area.exists(found):
        known: dict[str, Any] = json.loads(draft.area.read(found))
        return known
    trials = values_of(settings, course)
    steps, first_rung = trial_steps(settings, course)
    # A trial is a course of its own: its rate falls to zero, or its figure would be that of an unfinished one.
    short = replace(course, steps=steps, evaluate_every=first_rung, patience=steps + 1, round=0, rounds=1)
    error = _fit(settings, trials, {**given, "course": asdict(short)}, resources, draft, progress, max_failures)
    if error is not None:
        raise error
    rows = [row for number in range(len(trials)) if (row := _row(draft.area, number)) is not None]
    best = best_trial(rows)
    if best is None:
        why = (
            rows[0]["diverged"]
            if rows
            else "the time was over before the first look at the dev pool; raise search.minutes"
        )
        raise NotFiniteError(f"Not one of {len(trials)} trials of the search has a figure: {why}")
    result = {
        "values": best["values"],
        "trial": best["trial"],
        "steps": steps,
        "trials": [_told_row(row) for row in rows],
    }
    draft.area.write_bytes(found, json.dumps(result).encode())
    return result


def _fit(
    settings: SearchSettings,
    trials: list[dict[str, float]],
    given: dict[str, Any],
    resources: Resources,
    draft: Draft,
    progress: Progress,
    max_failures: int,
) -> Exception | None:
    """Run the trials that are not known to the end; return what a trial raised."""
    course = given["course"]
    rows = [_row(draft.area, number) for number in range(len(trials))]
    left_s: float | None = None
    if settings.minutes is not None:
        spent_s = sum(row["seconds"] for row in rows if row is not None) / resources.resolve().workers
        left_s = settings.minutes * 60 - spent_s
        if left_s <= 0:
            return None
    scheduler = ASHAScheduler(
        time_attr="step", max_t=course["steps"], grace_period=course["evaluate_every"], reduction_factor=settings.reduction
    )  # fmt: skip
    with progress.task("searching weights, temperatures and rate", len(trials)) as task, connected():
        results = run_trials(
            _trial,
            {**given, "values": trials},
            resources,
            task=task,
            scratch=draft.scratch("_tune"),
            name="search",
            max_failures=max_failures,
            param_space={"trial": ray.tune.grid_search(list(range(len(trials))))},
            scheduler=scheduler,
            metric="mrr10",
            mode="max",
            time_budget_s=left_s,
        )
    for number in range(len(results)):
        error = error_of(results[number].metrics)
        if error is not None:
            return error
    if results.errors:
        return StorageError(
            f"A trial of the search failed more than {max_failures} times: {last_words(results)}. Finished trials are kept in "
            f"{draft.scratch(FOLDER)}; run the same command to go on."
        )
    return None


class _TrialLink(WorkerLink):
    """A loop's surroundings in a trial: figures on the dev pool are written down and told, steps are not."""

    def __init__(self, area: FileArea, row: dict[str, Any], steps: int) -> None:
        super().__init__()
        self._area, self._row, self._steps = area, row, steps
        self._began = time.monotonic() - row["seconds"]

    def report(self, metrics: Mapping[str, Any]) -> None:
        if metrics.get("mrr10") is None or metrics["step"] == 0:
            return
        row = self._row
        if metrics["step"] > (row["history"][-1]["step"] if row["history"] else 0):
            row["history"].append({"step": metrics["step"], "mrr10": metrics["mrr10"]})
            row["mrr10"] = max(entry["mrr10"] for entry in row["history"])
            row["seconds"] = round(time.monotonic() - self._began, 2)
            # Before it is told: the scheduler may end this process as soon as it knows.
            _write(self._area, row)
            _tell(row, row["history"][-1], self._steps)


def _trial(config: dict[str, Any], given: dict[str, Any]) -> None:
    """One setting, in a process of its own."""
    number, area, steps = int(config["trial"]), given["area"], given["course"]["steps"]
    values = given["values"][number]
    row = _row(area, number) or {
        "trial": number, "values": values, "history": [], "mrr10": None, "seconds": 0.0, "diverged": None,
    }  # fmt: skip
    for entry in row["history"]:
        _tell(row, entry, steps)
    if row["diverged"] or (row["history"] and row["history"][-1]["step"] >= steps):
        return
    try:
        teach_student(
            {**given, "course": {**given["course"], **values}, "evaluate_first": False}, _TrialLink(area, row, steps)
        )
    except NotFiniteError as error:
        row["diverged"] = str(error)
        _write(area, row)
        ray.tune.report({"step": 0, "mrr10": 0.0, "note": f"trial {number}: the loss is not finite", "advance": 1})
    except RetortError as error:
        ray.tune.report({"step": 0, "mrr10": 0.0, **told(error)})


def _tell(row: Mapping[str, Any], entry: Mapping[str, Any], steps: int) -> None:
    note = f"trial {row['trial']}, step {entry['step']} of {steps}: dev MRR@10 {entry['mrr10']:.4f}"
    ray.tune.report({**entry, "note": note, "advance": int(entry["step"] >= steps)})


def _told_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """What manifest and card say of a trial: no times, so that equal searches give equal files."""
    return {name: row[name] for name in ("trial", "values", "history", "mrr10", "diverged")}


def _row(area: FileArea, number: int) -> dict[str, Any] | None:
    path = _path(number)
    if not area.exists(path):
        return None
    row: dict[str, Any] = json.loads(area.read(path))
    return row


def _write(area: FileArea, row: Mapping[str, Any]) -> None:
    area.write_bytes(_path(row["trial"]), json.dumps(row).encode())


def _path(number: int) -> str:
    return f"{FOLDER}/trial-{number:03d}.json"
