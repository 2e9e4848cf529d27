"""Trials on Ray Tune: what the searches of this project share. A room's search is a `sweep.py` that says what a trial is.

    results = run_trials(trial, given, resources, task=task, scratch=..., name="search", max_failures=3, ...)

`trial(config, given)` runs in a process of its own. It says what the user should see by `ray.tune.report({"note": ...})`, and ends
with `ray.tune.report(told(error))` where an error of this project is the answer, which `error_of` reads again.
"""

from __future__ import annotations

import base64
import logging
import os
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import ray.tune

from retort.errors import RetortError
from retort.progress import QUIET_TASK, Task
from retort.resources import Resources, limit_threads
from retort.runtime.stages import check_fits

__all__ = ["error_of", "last_words", "run_trials", "told"]


def run_trials(
    trial: Callable[[dict[str, Any], dict[str, Any]], None],
    given: Mapping[str, Any],
    resources: Resources,
    *,
    task: Task,
    scratch: str,
    name: str,
    max_failures: int,
    param_space: Mapping[str, Any] | None = None,
    **tune_config: Any,
) -> ray.tune.ResultGrid:
    """Run trials until the searcher or the grid is done; connected to Ray already.

    Args:
        trial: called with its config and `given`, its process's threads set.
        given: the same for all trials.
        resources: a trial takes what a worker would; as many run at a time as there would be workers.
        task: gets the trials' notes.
        scratch: URI of a folder for Ray Tune's own files.
        name: of the search.
        max_failures: lost processes after which a trial is given up.
        param_space, tune_config: Ray Tune's.
    """
    allotment = resources.resolve()
    check_fits(1, allotment.cpus_per_worker, allotment.gpus_per_worker)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one prints its tables at any verbosity
    # Ray Tune would take Ctrl-C for the end of the search, and what asked for it would go on with the trials so far.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    trainable: Callable[..., None] = ray.tune.with_resources(
        ray.tune.with_parameters(_run, trial=trial, given=dict(given), threads=allotment.threads),
        {"CPU": allotment.cpus_per_worker, "GPU": allotment.gpus_per_worker},
    )
    return ray.tune.Tuner(
        trainable,
        param_space=dict(param_space) if param_space is not None else None,
        tune_config=ray.tune.TuneConfig(max_concurrent_trials=allotment.workers, reuse_actors=True, **tune_config),
        run_config=ray.tune.RunConfig(
            name=name,
            storage_path=scratch,
            failure_config=ray.tune.FailureConfig(max_failures=max_failures),
            verbose=0,
            callbacks=[_Tell(task)],
        ),
    ).fit()


def told(error: RetortError) -> dict[str, Any]:
    """The last report of a trial whose answer is this error."""
    return {"error": base64.b64encode(pickle.dumps(error)).decode()}


def error_of(result: Mapping[str, Any] | None) -> Exception | None:
    """The error that a trial told of; None where it told none."""
    text = (result or {}).get("error")
    if not text:
        return None
    error: Exception = pickle.loads(base64.b64decode(text))  # bytes of our own worker over Ray's transport
    return error


def last_words(results: ray.tune.ResultGrid) -> str:
    """The last line that a lost trial left."""
    lines = [line.strip() for error in results.errors for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "it left no result"


def _run(
    config: dict[str, Any],
    trial: Callable[[dict[str, Any], dict[str, Any]], None],
    given: dict[str, Any],
    threads: int,
) -> None:
    limit_threads(threads)
    trial(config, given)


class _Tell(ray.tune.Callback):
    """Passes what trials report on to the user's progress."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __reduce__(self) -> tuple[Any, ...]:
        # Ray Tune stores its callbacks; a terminal cannot be stored, and nobody reads this copy.
        return _Tell, (QUIET_TASK,)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if result.get("note"):
            self._task.update(int(result.get("advance", 0)), note=str(result["note"]))
