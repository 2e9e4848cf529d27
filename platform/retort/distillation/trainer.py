"""One worker's part of distilling a student: a step, an evaluation, and a state that can be saved and taken up again.

No Ray in here: `loop.py` is the shell that runs this class in every worker of Ray Train. With several workers torch's
process group is up and the student comes wrapped for data parallelism.

A step is a pure function of (weights, optimiser state, seed, step, rank, world size): its batch is, the learning rate
follows from the step, and dropout draws from a generator seeded anew for each step. So a run taken up from a checkpoint
goes on exactly as one that was never interrupted.
"""

from __future__ import annotations

import json
import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from retort.distillation.batches import BatchSampler
from retort.distillation.caching import backward_in_chunks
from retort.distillation.collate import Chunk, Collator, StepInput
from retort.distillation.course import PARTS, Course, State
from retort.distillation.dev_pool import DevPool
from retort.distillation.feed import Feed
from retort.distillation.gather import sum_over_workers
from retort.distillation.step_losses import StepLosses
from retort.distillation.towers import EncodedChunk, Towers, parallel
from retort.distillation.training_set import TrainingSet
from retort.models.backend import autocast
from retort.models.dual_encoder import DualEncoder
from retort.teaching.optimising import learning_rate_factor, mix_seed, parameter_groups
from retort.teaching.trainer import NotFiniteError

__all__ = ["DistilTrainer"]


class DistilTrainer:
    """Trains one replica of a student. A context manager: the thread that feeds it ends with it."""

    def __init__(
        self,
        student: DualEncoder,
        data: TrainingSet,
        course: Course,
        collator: Collator,
        dev: DevPool | None,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Take the student with its frozen weights frozen already; wraps it for data parallelism when world > 1."""
        self._student, self._data, self._course, self._dev = student, data, course, dev
        self._rank, self._world = rank, world
        self._device = student.device
        self._towers = parallel(Towers(student), world)
        self._collator = collator
        self._sampler = BatchSampler(
            data,
            batch_queries=course.batch_queries,
            negatives=course.negatives,
            similar=course.similar,
            seed=course.seed,
        )
        self._optimiser = torch.optim.AdamW(
            parameter_groups(student, course.learning_rate, course.learning_rate, course.weight_decay),
            betas=(0.9, 0.999),
            eps=1e-8,
        )
        self.state = State(precision=course.precision)
        self._best: dict[str, Tensor] | None = None
        self._feed: Feed[StepInput] | None = None

    def __enter__(self) -> DistilTrainer:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._feed is not None:
            self._feed.close()

    @property
    def has_dev(self) -> bool:
        """Whether there is a dev pool to evaluate on."""
        return self._dev is not None

    @property
    def finished(self) -> bool:
        """Whether the run is over."""
        return self.state.over(self._course)

    # One step ---------------------------------------------------------------------------------------------------------

    def step(self, flag: bool = False) -> dict[str, Any]:
        """Do the next step; return its loss, parts, gradient norm, speed, and whether any worker raised `flag`.

        Raises:
            NotFiniteError: loss or gradient is not finite; the weights are those before the step, on every worker.
        """
        began = time.perf_counter()
        course, step = self._course, self.state.step
        given, waited = self._next()
        torch.manual_seed(mix_seed(course.seed, step, self._rank))
        for group in self._optimiser.param_groups:
            group["lr"] = course.learning_rate * learning_rate_factor(
                step, course.steps, course.warmup_share, course.round, course.rounds
            )
        losses = StepLosses(course, self._data, given, self._device, self._world)
        raised, cached = losses.count(flag)
        self._student.train()
        self._optimiser.zero_grad(set_to_none=True)
        backward_in_chunks(
            given.chunks,
            self._encode,
            losses.of_vectors,
            losses.of_words,
            cached=cached,
            device=self._device,
            synchronised=self._synchronised,
        )
        trained = [parameter for parameter in self._student.parameters() if parameter.grad is not None]
        norm = float(nn.utils.clip_grad_norm_(trained, course.clip_norm))
        parts = dict(zip(PARTS, sum_over_workers([losses.parts[name] for name in PARTS], self._device), strict=True))
        loss = sum(getattr(course, f"{name}_weight") * parts[name] for name in PARTS)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NotFiniteError(self._describe_failure(step, losses, loss, norm))
        self._optimiser.step()
        state = self.state
        state.step += 1
        state.curve.append([loss, *(parts[name] for name in PARTS), norm])
        seconds = time.perf_counter() - began
        state.busy_s += seconds
        state.wait_s += waited
        state.tokens += given.tokens
        return {
            "step": state.step,
            "loss": loss,
            **parts,
            "grad_norm": norm,
            "learning_rate": self._optimiser.param_groups[0]["lr"],
            "examples_per_s": course.batch_queries / seconds,
            "tokens_per_s": given.tokens / seconds,
            "wait_s": waited,
            "wait_share": waited / seconds,
            "flag": raised,
        }

    def _next(self) -> tuple[StepInput, float]:
        if self._feed is None:
            self._feed = Feed(self._make, self.state.step, self._course.steps)
        before = self._feed.wait_s
        return self._feed.next(), self._feed.wait_s - before

    def _make(self, step: int) -> StepInput:
        return self._collator(self._sampler.batch(step, self._rank, self._world))

    def _encode(self, chunk: Chunk) -> EncodedChunk:
        with autocast(self._course.precision, self._device):
            return EncodedChunk.of(chunk, self._towers, self._device)

    def _synchronised(self, last: bool) -> AbstractContextManager[None]:
        """Let workers exchange gradients in the last chunk only."""
        if last or not isinstance(self._towers, nn.parallel.DistributedDataParallel):
            return nullcontext()
        quiet: AbstractContextManager[None] = self._towers.no_sync()
        return quiet

    # Evaluation ---------------------------------------------------------------------------------------------------------

    def evaluate(self) -> float | None:
        """MRR@10 on the dev pool, or None without one; keeps the weights when they are the best so far."""
        state = self.state
        if self._dev is None:
            self._keep()
            return None
        mrr10 = self._dev.evaluate(self._student, self._rank, self._world)
        state.history.append({"step": state.step, "mrr10": mrr10})
        if mrr10 > state.best_mrr10 and state.step > 0:
            state.best_mrr10, state.evaluations_without_gain = mrr10, 0
            self._keep()
        elif state.step > 0:
            state.evaluations_without_gain += 1
        return mrr10

    def _keep(self) -> None:
        self.state.best_step = self.state.step
        self._best = _own(self._student.model.state_dict())

    # Checkpoints --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write weights, best weights, optimiser and state under `folder`; any one rank's are everybody's."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_own(self._student.model.state_dict()), folder / "weights.safetensors")
        if self._best is not None:
            save_file(self._best, folder / "best.safetensors")
        torch.save(self._optimiser.state_dict(), folder / "optimiser.pt")
        (folder / "state.json").write_text(json.dumps(asdict(self.state)))

    def load(self, folder: Path) -> None:
        """Take up a run from what `save` wrote; before the first step."""
        assert self._feed is None, "load before the first step"
        self._student.model.load_state_dict(load_file(folder / "weights.safetensors"))
        best = folder / "best.safetensors"
        self._best = load_file(best) if best.exists() else None
        self._optimiser.load_state_dict(
            torch.load(folder / "optimiser.pt", map_location=self._device, weights_only=True)
        )
        self.state = replace(State(**json.loads((folder / "state.json").read_text())), precision=self._course.precision)

    def _describe_failure(self, step: int, losses: StepLosses, loss: float, norm: float) -> str:
        """Say which step and queries went wrong; called on every worker, for it gathers."""
        bad: list[str] = losses.bad_queries()
        if self._world > 1:
            gathered: list[list[str]] = [[] for _ in range(self._world)]
            dist.all_gather_object(gathered, bad)
            bad = [name for share in gathered for name in share]
        whose = (
            f"in the losses of queries {', '.join(bad[:5])}"
            if bad
            else f"in the gradient, whose norm is {norm}; each query's own loss is finite"
        )
        return f"Training stopped at step {step} (batch {step} of seed {self._course.seed}): the loss is {loss}, not finite {whose}."


def _own(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give each tensor its own memory: safetensors refuses tied weights."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
