"""The sweep on Ray Tune: the largest learning rate at which no guarded language falls, the adiabatic limit.

Each trial is the whole of `loop.tune_queries` in one process, with the batch that the workers of the run share. Its row
is written to the draft's scratch folder when it ends, so that a killed sweep does not try that rate again.

Neighbours: `ladder.py` says which rate is next, `tune.py` runs at the one that is chosen.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import ray.tune
from ray.tune.search import Searcher

from retort.errors import RetortError, StorageError
from retort.progress import QUIET_TASK, Progress, Task
from retort.resources import Resources
from retort.runtime.connecting import connected
from retort.runtime.loop import WorkerLink
from retort.runtime.trials import error_of, last_words, run_trials, told
from retort.store import Draft, cache_root
from retort.store.files import FileArea
from retort.teaching.trainer import NotFiniteError
from retort.tuning.config import SweepSettings
from retort.tuning.ladder import DONE, next_rate, tried
from retort.tuning.loop import tune_queries
from retort.tuning.outcome import Outcome, trial_row

__all__ = ["run_sweep"]

FOLDER = "_sweep"


def run_sweep(
    sweep: SweepSettings,
    settings: Mapping[str, Any],
    resources: Resources,
    draft: Draft,
    progress: Progress,
    max_failures: int,
) -> dict[float, dict[str, Any]]:
    """Try rates until the ladder is done; rows by rate, in the order in which they count.

    `settings` are those of `loop.tune_queries`; the course's rate is replaced. Raises a trial's RetortError, or
    StorageError when trials were lost too often.
    """
    known = _Known(draft.area)
    if next_rate(sweep, known.rows) != DONE:
        with progress.task("looking for the highest safe rate", sweep.trials) as task:
            task.update(len(known.rows))
            with connected():
                _fit(_Ladder(sweep, known, task), settings, resources, draft, task, max_failures)
    return {rate: dict(known.rows[rate]) for rate in tried(sweep, known.rows)}


def _fit(
    ladder: _Ladder,
    settings: Mapping[str, Any],
    resources: Resources,
    draft: Draft,
    task: Task,
    max_failures: int,
) -> None:
    results = run_trials(
        _trial,
        settings,
        resources,
        task=task,
        scratch=draft.scratch("_tune"),
        name="sweep",
        max_failures=max_failures,
        search_alg=ladder,
        num_samples=-1,
    )
    if ladder.error is not None:
        raise ladder.error
    if ladder.lost:
        raise StorageError(
            f"A trial of the sweep failed more than {max_failures} times: {last_words(results)}. Finished trials "
            f"are kept in {draft.scratch(FOLDER)}; run the same command to go on."
        )


@dataclass
class _Known:
    """Rows of finished trials, in the draft's scratch folder."""

    area: FileArea

    def __post_init__(self) -> None:
        # Not the state.json of a trial that did not end, one folder below.
        paths = [
            item.path for item in self.area.list(FOLDER) if PurePosixPath(item.path).match(f"{FOLDER}/rate-*.json")
        ]
        rows = [json.loads(self.area.read(path)) for path in paths]
        self.rows: dict[float, dict[str, Any]] = {row["rate"]: row for row in rows}

    def take(self, rate: float) -> None:
        """Read a row that a trial wrote."""
        self.rows[rate] = json.loads(self.area.read(_row_path(rate)))


class _Ladder(Searcher):
    """`ladder.next_rate` as Ray Tune asks for it."""

    def __init__(self, settings: SweepSettings, known: _Known, task: Task) -> None:
        super().__init__()
        self._settings, self._known, self._task = settings, known, task
        self._pending: dict[str, float] = {}
        self.error: Exception | None = None  # a trial's own
        self.lost = False  # whether a trial ended without a word

    def suggest(self, trial_id: str) -> Any:
        if self.error is not None or self.lost:
            return Searcher.FINISHED
        rate = next_rate(self._settings, self._known.rows, self._pending.values())
        if rate is None or rate == DONE:
            return Searcher.FINISHED if rate == DONE else None
        self._pending[trial_id] = rate
        return {"rate": rate}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        rate = self._pending.pop(trial_id)
        own = error_of(result)
        if own is not None:
            self.error = own
        elif error or not self._known.area.exists(_row_path(rate)):
            self.lost = True
        else:
            self._known.take(rate)
            self._task.update(1)

    def __reduce__(self) -> tuple[Any, ...]:
        # Ray Tune stores its searcher; a terminal cannot be stored, and nobody reads this copy.
        return _Ladder, (self._settings, self._known, QUIET_TASK)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to keep: the rows are in the store."""
        Path(checkpoint_path).write_text("{}")

    def restore(self, checkpoint_path: str) -> None:
        """As `save`."""


class _TrialLink(WorkerLink):
    """A loop's surroundings in a trial: looks are told, steps are not (a report costs a round trip)."""

    def __init__(self, folder: Path, rate: float) -> None:
        super().__init__(folder=folder)
        self._rate = rate

    def report(self, metrics: Mapping[str, Any]) -> None:
        if "all_kept" in metrics:
            state = (
                "kept"
                if metrics["all_kept"]
                else f"fell: {', '.join(metrics['damaged'])}"
                if metrics["damaged"]
                else "unclear"
            )
            target = "" if metrics["target"] is None else f", target {metrics['target']:.4f}"
            ray.tune.report({"note": f"rate {self._rate:.3g}, step {metrics['step']}{target}, {state}"})


def _trial(config: dict[str, Any], given: dict[str, Any]) -> None:
    """One rate, in a process of its own."""
    rate, area = float(config["rate"]), given["area"]
    # Checkpoints of a trial stay on its machine: should it be lost, the trial begins anew elsewhere.
    folder = (area.root / FOLDER if area.is_local else cache_root() / "sweep" / area.uri.rsplit("/", 1)[-1]) / _name(
        rate
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    course = {**given["course"], "learning_rate": rate}
    diverged = None
    try:
        tune_queries({**given, "course": course}, _TrialLink(folder, rate))
    except NotFiniteError as error:
        diverged = str(error)
    except RetortError as error:
        ray.tune.report(told(error))
        return
    row = trial_row(rate, course["steps"], Outcome.of(folder, given) if diverged is None else None, diverged)
    area.write_bytes(_row_path(rate), json.dumps(row, ensure_ascii=False).encode())
    shutil.rmtree(folder, ignore_errors=True)
    ray.tune.report({"note": f"rate {rate:.3g}: {'safe' if row['safe'] else 'not safe'}"})


def _name(rate: float) -> str:
    return f"rate-{rate:.6g}"


def _row_path(rate: float) -> str:
    return f"{FOLDER}/{_name(rate)}.json"
