"""Training on Ray Train: any number of workers, checkpoints in the store, resumption after a lost worker or driver.

A room's loop is a plain function `loop(settings, link)`. `link` (a `WorkerLink`) gives rank and world size, reports
progress to the driver as it happens, and saves and restores checkpoints. Ray Train V2 resumes a run that has the same
storage path and name, which is how a killed driver's run goes on.
"""

from __future__ import annotations

import logging
import pickle
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from retort.errors import RetortError, StorageError
from retort.resources import Resources, limit_threads
from retort.runtime.connecting import connected
from retort.runtime.stages import check_fits

log = logging.getLogger(__name__)

OnReport = Callable[[Mapping[str, Any]], None]


@dataclass
class WorkerLink:
    """What a training loop may ask of its surroundings; `WorkerLink()` is a single process without Ray."""

    rank: int = 0
    world_size: int = 1
    reports: list[dict[str, Any]] = field(default_factory=list)
    folder: Path | None = None
    """Where checkpoints go without Ray."""

    def report(self, metrics: Mapping[str, Any]) -> None:
        """Send numbers to the driver now (rank 0 only; no barrier, never blocks training)."""
        if self.rank == 0:
            self.reports.append(dict(metrics))

    def save(self, write: Callable[[Path], None], metrics: Mapping[str, Any]) -> None:
        """Store a checkpoint: every rank calls this at the same step (a barrier); rank 0's `write` fills the folder."""
        if self.folder is not None and self.rank == 0:
            with tempfile.TemporaryDirectory(dir=self.folder.parent) as temporary:
                write(Path(temporary) / "new")
                if self.folder.exists():
                    shutil.rmtree(self.folder)
                (Path(temporary) / "new").rename(self.folder)

    @contextmanager
    def restored(self) -> Iterator[Path | None]:
        """A local folder with the newest checkpoint, or None at a first start."""
        yield self.folder if self.folder is not None and self.folder.exists() else None


class _Channel:
    """What the workers say, until the driver takes it; an actor of its own, so that it outlives a lost worker."""

    def __init__(self) -> None:
        self._reports: list[dict[str, Any]] = []
        self._error: bytes | None = None

    def put(self, report: dict[str, Any]) -> None:
        self._reports.append(report)

    def fail(self, error: bytes) -> None:
        """Keep the first error of ours, pickled."""
        self._error = self._error or error

    def failed(self) -> bool:
        return self._error is not None

    def take(self) -> tuple[list[dict[str, Any]], bytes | None]:
        """Reports since the last time, and the error if there is one."""
        reports, self._reports = self._reports, []
        return reports, self._error


class _RayLink(WorkerLink):
    def __init__(self, channel: Any) -> None:
        context = ray.train.get_context()
        super().__init__(rank=context.get_world_rank(), world_size=context.get_world_size())
        self._channel = channel

    def report(self, metrics: Mapping[str, Any]) -> None:
        if self.rank == 0:
            # Not waited for: a round trip per step would cost more than the step of a small model.
            self._channel.put.remote(dict(metrics))

    def save(self, write: Callable[[Path], None], metrics: Mapping[str, Any]) -> None:
        if self.rank != 0:
            ray.train.report(dict(metrics))
            return
        with tempfile.TemporaryDirectory(prefix="retort-checkpoint-") as folder:
            write(Path(folder))
            ray.train.report(dict(metrics), checkpoint=Checkpoint.from_directory(folder))

    @contextmanager
    def restored(self) -> Iterator[Path | None]:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            yield None
            return
        with checkpoint.as_directory() as folder:
            yield Path(folder)


Loop = Callable[[dict[str, Any], WorkerLink], None]


@dataclass(frozen=True)
class TrainingOutcome:
    """Every report of rank 0 in order, and the newest checkpoint copied to a local folder (None if there was none)."""

    reports: list[dict[str, Any]]
    checkpoint: Path | None


def run_training(
    loop: Loop,
    settings: Mapping[str, Any],
    resources: Resources,
    *,
    scratch: str,
    run_name: str,
    into: Path,
    on_report: OnReport | None = None,
    max_failures: int = 3,
) -> TrainingOutcome:
    """Run `loop` on `resources.workers` workers and wait for its end.

    `scratch` is the URI of the draft's scratch folder, `into` a local folder for the last checkpoint. A lost worker
    is replaced and the run goes on from the last checkpoint, `max_failures` times. Raises the loop's RetortError, on
    whatever worker it was; StorageError when the workers were lost too often; and, when the run is over, what `on_report`
    raised, which is not called again after it.
    """
    allotment = resources.resolve()
    error: Exception | None = None
    with connected():
        check_fits(allotment.workers, allotment.cpus_per_worker, allotment.gpus_per_worker)
        channel: Any = ray.remote(num_cpus=0)(_Channel).remote()
        logging.getLogger("ray.train").setLevel(logging.ERROR)
        per_worker: dict[str, float] = {"CPU": allotment.cpus_per_worker}
        if allotment.gpus_per_worker:
            per_worker["GPU"] = allotment.gpus_per_worker
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "loop": loop,
                "settings": dict(settings),
                "channel": channel,
                "threads": allotment.threads,
            },
            torch_config=TorchConfig(backend="nccl" if allotment.gpus_per_worker else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=allotment.workers,
                use_gpu=allotment.gpus_per_worker > 0,
                resources_per_worker=per_worker,
            ),
            run_config=RunConfig(
                name=run_name,
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
        )
        listener = _Listener(channel, on_report)
        result = None
        try:
            result = trainer.fit()
            error = result.error
        except ray.train.TrainingFailedError as failure:
            error = failure
        finally:
            listener.close()
            ray.kill(channel)
        if listener.error is not None:
            raise pickle.loads(listener.error)  # bytes of our own worker over Ray's transport, never from a file
        if error is not None:
            raise StorageError(
                f"Training {run_name!r} failed more than {max_failures} times: {_last_line(error)}. "
                f"Its checkpoints are kept in {scratch}; run the same command to go on from the last one."
            ) from error
        if listener.failure is not None:
            raise listener.failure
        checkpoint: Path | None = None
        if result is not None and result.checkpoint is not None:
            with result.checkpoint.as_directory() as folder:
                shutil.copytree(folder, into, dirs_exist_ok=True)
            checkpoint = into
    return TrainingOutcome(listener.reports, checkpoint)


def _worker(given: dict[str, Any]) -> None:
    limit_threads(given["threads"])
    channel = given["channel"]
    if ray.get(channel.failed.remote()):
        return  # started again after an error that no second try mends
    link = _RayLink(channel)
    try:
        given["loop"](given["settings"], link)
    except RetortError as error:
        ray.get(channel.fail.remote(pickle.dumps(error)))
        if link.world_size > 1:
            raise  # Ray Train then ends the others too, which may wait for this one in a collective
        # Alone it ends quietly, for Ray Train would only try again.


class _Listener:
    """Takes what the workers say, in a thread, and hands reports on as they come."""

    def __init__(self, channel: Any, on_report: OnReport | None) -> None:
        self.reports: list[dict[str, Any]] = []
        self.error: bytes | None = None  # a worker's, pickled
        self.failure: Exception | None = None  # what on_report raised
        self._channel, self._on_report = channel, on_report
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take what is left, and end."""
        self._ended.set()
        self._thread.join(timeout=30)

    def _listen(self) -> None:
        while True:
            last_round = self._ended.is_set()
            reports: list[dict[str, Any]] = []
            with suppress(ray.exceptions.RayError):
                reports, self.error = ray.get(self._channel.take.remote())
            for report in reports:
                self.reports.append(report)
                self._hand_on(report)
            if last_round and not reports:
                return
            if not reports:
                self._ended.wait(0.25)

    def _hand_on(self, report: dict[str, Any]) -> None:
        if self._on_report is None or self.failure is not None:
            return
        try:
            self._on_report(report)
        except Exception as error:  # an error in showing must not cost the training
            log.warning("Training goes on, but nothing more is shown of it: %s", error)
            self.failure = error


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
