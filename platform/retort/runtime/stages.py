"""Maps over parts on Ray Data.

The unit of work, of resumption and of memory is one part of an artefact. A worker reads its part, computes, and writes
the output part itself, whole or not at all; so a killed worker's part is simply done again, finished ones are skipped by
the next run, and neither order nor block layout can matter. Ray Data schedules the parts over a fixed pool of actors.
"""

from __future__ import annotations

import logging
import pickle
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import ray
from ray.data import ActorPoolStrategy, DataContext

from retort.errors import InputError, RetortError
from retort.progress import QUIET, Progress
from retort.resources import Resources, give_back_memory, limit_threads
from retort.runtime.connecting import connected

log = logging.getLogger(__name__)

MAX_RESTARTS = 3
NODE_GROUP = "ray.io/node-group"


class PartWorker(Protocol):
    """A plain class, tested without Ray: made once per actor, called once per part."""

    def __call__(self, part: str) -> Mapping[str, Any]:
        """Do one part, write its output, return numbers about it (JSON-ready; the same names for every part)."""


class _Shell:
    """The actor: sets threads, holds the worker, carries our own errors home as values.

    Ray Data wraps exceptions of user code and would retry or hide them; a RetortError is an answer, not an accident.
    """

    def __init__(self, make: Callable[..., PartWorker], settings: Mapping[str, Any], threads: int) -> None:
        limit_threads(threads)
        self._failure: RetortError | None = None
        try:
            self._worker = make(**settings)
        except RetortError as error:
            self._failure = error

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        part = str(row["part"])
        if self._failure is not None:
            return {"part": part, "stats": b"", "error": pickle.dumps(self._failure)}
        try:
            return {"part": part, "stats": pickle.dumps(dict(self._worker(part))), "error": b""}
        except RetortError as error:
            return {"part": part, "stats": b"", "error": pickle.dumps(error)}
        finally:
            give_back_memory()


def map_parts(
    worker: Callable[..., PartWorker],
    settings: Mapping[str, Any],
    parts: Sequence[str],
    resources: Resources,
    *,
    describe: str,
    progress: Progress = QUIET,
    weights: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Run `worker(**settings)(part)` for every part; returns their stats, in the order of `parts`.

    `weights` are the units of progress per part (rows, say). Raises the first RetortError of a worker; other parts that
    were complete by then stay complete. A worker process that dies is started again, at most three times.
    """
    if not parts:
        return []
    allotment = resources.resolve()
    size = min(allotment.workers, len(parts))
    found: dict[str, dict[str, Any]] = {}
    with connected():
        check_fits(size, allotment.cpus_per_worker, allotment.gpus_per_worker)
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        # A finite budget: unlimited errored blocks with a dead actor hang (ray#62746).
        context.max_errored_blocks = 0
        # A part may take as long as it takes, and so may a busy cluster: Ray would give both up after half an hour.
        context.execution_no_progress_timeout_s = -1
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            # Ray 2.60 calls extra remote arguments deprecated, and has no other way yet to bound restarts.
            warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
            dataset = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts)).map(
                _Shell,  # type: ignore[arg-type]
                fn_constructor_args=(worker, dict(settings), allotment.threads),
                compute=ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),
                num_cpus=allotment.cpus_per_worker,
                num_gpus=allotment.gpus_per_worker or None,
                max_restarts=MAX_RESTARTS,
                max_task_retries=MAX_RESTARTS,
            )
        total = sum(weights.values()) if weights else float(len(parts))
        began = time.monotonic()
        with progress.task(describe, total) as task:
            for row in dataset.iter_rows():
                _take(row, found)
                done = weights[row["part"]] if weights else 1.0
                task.update(done)
        log.info("%s: %d parts in %.1f s", describe, len(parts), time.monotonic() - began)
    return [found[part] for part in parts]


def _take(row: Mapping[str, Any], found: dict[str, dict[str, Any]]) -> None:
    # Our own actors' bytes over Ray's own transport; nothing stored is ever unpickled.
    if row["error"]:
        raise pickle.loads(row["error"])
    found[row["part"]] = pickle.loads(row["stats"])


def check_fits(workers: int, cpus: float, gpus: float) -> None:
    """Refuse a plan that the cluster can never start: Ray would wait for ever without a word. One that grows is waited for, and that is said."""
    have = ray.cluster_resources()  # type: ignore[no-untyped-call]
    if workers * cpus + 0.5 <= have.get("CPU", 0.0) and workers * gpus <= have.get("GPU", 0.0):
        return
    plan = f"{workers} workers of {cpus:g} CPUs and {gpus:g} GPUs (plus half a CPU for reading)"
    size = f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs"
    if not _grows():
        raise InputError(
            f"{plan} do not fit this Ray cluster of {size}. Lower resources.workers or resources.cpus_per_worker."
        )
    log.warning("%s wait for new nodes: the cluster has %s now; `ray status` tells what it can start", plan, size)


def _grows() -> bool:
    """Whether an autoscaler may add nodes: those that `ray up` or KubeRay start are labelled with their group."""
    return any(NODE_GROUP in node["Labels"] for node in ray.nodes() if node["Alive"])  # type: ignore[no-untyped-call]
