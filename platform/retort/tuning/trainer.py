"""One worker's part of tuning a query encoder: a step, a look, and a state that can be saved and taken up again.

No Ray in here: `loop.py` is the shell that runs this class in every worker of Ray Train, `sweep.py` in every trial. With
several workers torch's process group is up and the encoder comes wrapped for data parallelism.

A step is a pure function of (weights, optimiser state, seed, step, rank, world size). Only queries are encoded; passage
vectors are read, never made. At a look the guard measures every language; a point at which one is not kept ends the run,
and `best` stays the best good point before it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from retort.distillation.feed import Feed
from retort.distillation.gather import sum_over_workers
from retort.errors import InputError
from retort.models.backend import autocast
from retort.models.dual_encoder import DualEncoder
from retort.teaching.optimising import mix_seed
from retort.teaching.trainer import NotFiniteError
from retort.tuning.batches import Batch, BatchMaker
from retort.tuning.course import Course, State
from retort.tuning.guard import Judgement, Look
from retort.tuning.losses import distil_loss, infonce_loss, triplet_loss
from retort.tuning.precise import PreciseAdamW

__all__ = ["TuneTrainer", "Watch"]


class Watch(Protocol):
    """Who looks at the languages: `guard.Guard`."""

    def look(self, encoder: DualEncoder, rank: int = 0, world: int = 1) -> Look:
        """Measure every query; the workers share the work and get the same look."""

    def judge(self, before: Look, after: Look, looks: int) -> Judgement:
        """What may be said of the change."""


class TuneTrainer:
    """Tunes one replica of a query encoder. A context manager: the thread that feeds it ends with it."""

    def __init__(
        self,
        encoder: DualEncoder,
        batches: BatchMaker,
        course: Course,
        guard: Watch | None,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Take the encoder with its frozen weights frozen already; wraps it for data parallelism when world > 1."""
        self._encoder, self._batches, self._course, self._guard = encoder, batches, course, guard
        self._rank, self._world = rank, world
        self._device = encoder.device
        self._tower: nn.Module = encoder
        if world > 1:
            # Buffers (position ids) are constants, so they are not sent round.
            self._tower = nn.parallel.DistributedDataParallel(
                encoder, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        self._optimiser = PreciseAdamW(
            encoder.model.named_parameters(),
            learning_rate=course.learning_rate,
            betas=course.betas,
            eps=course.eps,
            weight_decay=course.weight_decay,
            master=course.master,
        )
        self.state = State(precision=course.precision)
        self.before: Look | None = None  # of the untuned encoder
        self.best_look: Look | None = None
        self._best: dict[str, Tensor] | None = None
        self._feed: Feed[Batch] | None = None

    def __enter__(self) -> TuneTrainer:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._feed is not None:
            self._feed.close()

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or a look ended the run."""
        return self.state.step >= self._course.steps or self.state.stopped_at is not None

    @property
    def look_due(self) -> bool:
        """Whether the guard looks now."""
        return self.state.step in self._course.look_at and (
            not self.state.looks or self.state.looks[-1]["step"] != self.state.step
        )

    # One step ---------------------------------------------------------------------------------------------------------

    def step(self, flag: bool = False) -> dict[str, Any]:
        """Do the next step; return its loss, gradient norm, speed, and whether any worker raised `flag`.

        Raises:
            NotFiniteError: loss or gradient is not finite; the weights are those before the step, on every worker.
        """
        began = time.perf_counter()
        course, step = self._course, self.state.step
        batch, waited = self._next()
        torch.manual_seed(mix_seed(course.seed, step, self._rank))
        self._encoder.train()
        self._optimiser.zero_grad()
        losses = self._backward(batch)  # [q]
        own = float(losses.double().sum())
        total, raised = sum_over_workers([own, float(flag)], self._device)
        loss = total / course.batch_queries
        norm = self._gradient_norm()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NotFiniteError(
                f"Tuning stopped at step {step} (batch {step} of seed {course.seed}): the loss is {loss}, the gradient's norm {norm}, "
                f"at a learning rate of {course.learning_rate:g}."
            )
        scale = min(1.0, course.clip_norm / (norm + 1e-12)) if course.clip_norm is not None else 1.0
        self._optimiser.learning_rate = course.learning_rate * min(1.0, (step + 1) / max(1, course.warmup_steps))
        self._optimiser.step(scale)
        state = self.state
        state.step += 1
        state.curve.append([loss, norm])
        seconds = time.perf_counter() - began
        state.busy_s += seconds
        state.wait_s += waited
        return {
            "step": state.step,
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": self._optimiser.learning_rate,
            "examples_per_s": course.batch_queries / seconds,
            "wait_s": waited,
            "wait_share": waited / seconds,
            "flag": raised > 0,
        }

    def _next(self) -> tuple[Batch, float]:
        if self._feed is None:
            self._feed = Feed(self._make, self.state.step, self._course.steps)
        before = self._feed.wait_s
        return self._feed.next(), self._feed.wait_s - before

    def _make(self, step: int) -> Batch:
        return self._batches.batch(step, self._rank, self._world)

    def _backward(self, batch: Batch) -> Tensor:
        """Add the batch's gradient part by part; return each query's loss, [q]."""
        losses = torch.zeros(len(batch.queries))
        passages = batch.passages.to(self._device)  # [p, dim]
        if not batch.texts:
            self._nothing_to_learn()
        for number, (places, ids, mask) in enumerate(batch.texts):
            with self._synchronised(number + 1 == len(batch.texts)):
                with autocast(self._course.precision, self._device):
                    _, vectors = self._tower(ids.to(self._device), mask.to(self._device))  # [part of q, dim]
                own = self._losses(vectors.float() @ passages.T, batch, torch.from_numpy(places))
                # Data parallelism takes the mean over workers: times their number, it is the mean over the global batch.
                (own.sum() * self._world / self._course.batch_queries).backward()  # type: ignore[no-untyped-call]
            losses[torch.from_numpy(places)] = own.detach().cpu().float()
        return losses

    def _losses(self, scores: Tensor, batch: Batch, places: Tensor) -> Tensor:
        """[part of q, p] scores to one loss per query."""
        course, device = self._course, scores.device

        def of(columns: Tensor) -> Tensor:
            return scores.gather(1, columns[places].to(device))

        if course.loss == "distil":
            return distil_loss(
                of(batch.judged),
                batch.scores[places].to(device),
                batch.judged_mask[places].to(device),
                batch.trust[places].to(device),
                temperature=course.temperature,
                teacher_temperature=course.teacher_temperature,
            )
        positive = of(batch.positive.unsqueeze(-1)).squeeze(-1)
        if course.loss == "infonce":
            return infonce_loss(positive, scores, batch.others[places].to(device), temperature=course.temperature)
        return triplet_loss(positive, of(batch.negatives), batch.negative_mask[places].to(device), margin=course.margin)

    def _nothing_to_learn(self) -> None:
        """Take part in the exchange of gradients with zeros, where a batch has fewer queries than workers."""
        ids = torch.zeros((1, 1), dtype=torch.int64, device=self._device)
        (self._tower(ids, torch.ones_like(ids))[1].sum() * 0).backward()

    def _synchronised(self, last: bool) -> AbstractContextManager[None]:
        """Let workers exchange gradients in the last part only."""
        if last or not isinstance(self._tower, nn.parallel.DistributedDataParallel):
            return nullcontext()
        quiet: AbstractContextManager[None] = self._tower.no_sync()
        return quiet

    def _gradient_norm(self) -> float:
        norms = [p.grad.double().norm() for p in self._encoder.parameters() if p.grad is not None]
        return float(torch.stack(norms).norm()) if norms else 0.0

    # Looks --------------------------------------------------------------------------------------------------------------

    def check_guard(self) -> None:
        """Refuse a guard that could call nothing kept, before time is spent on it.

        Raises:
            InputError: no language has enough queries, or a base that finds something.
        """
        if self._guard is None or not self._course.guarded:
            return
        assert self.before is not None, "the untuned encoder is looked at first"
        judgement = self._guard.judge(self.before, self.before, self._course.planned_looks)
        if not judgement.all_kept:
            raise InputError(
                f"The guard cannot tell of any language whether it is kept. {judgement.summary} Give more labelled queries per "
                "language in guard_queries, lower guard.least_queries or guard.least_recall, or set unguarded to true without guard_queries."
            )

    def look(self) -> dict[str, Any]:
        """Let the guard look at this point; keep its weights if it is good and the best so far, or end the run."""
        began = time.perf_counter()
        state, course = self.state, self._course
        entry: dict[str, Any] = {"step": state.step, "target": None, "judgement": None}
        good, look = True, None
        if self._guard is not None:
            assert self.before is not None, "the untuned encoder is looked at first"
            look = self._guard.look(self._encoder, self._rank, self._world)
            judgement = self._guard.judge(self.before, look, course.planned_looks)
            good = judgement.all_kept or not course.guarded
            entry |= {"target": look.target, "judgement": judgement.to_json(rows=False)}
        state.looks.append(entry)
        if not good:
            state.stopped_at = state.step
        elif look is None or look.target is None or state.best_target is None or look.target > state.best_target:
            # Without a target the last good point is taken.
            state.best_step, state.best_target = state.step, look.target if look is not None else None
            self.best_look = look
            self._best = own_copy(self._encoder.model.state_dict())
        state.look_s += time.perf_counter() - began
        return entry

    # Checkpoints --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write weights, best weights, optimiser, looks and state under `folder`; any one rank's are everybody's."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(own_copy(self._encoder.model.state_dict()), folder / "weights.safetensors")
        if self._best is not None:
            save_file(self._best, folder / "best.safetensors")
        torch.save(self._optimiser.state_dict(), folder / "optimiser.pt")
        for name, look in (("before", self.before), ("best", self.best_look)):
            if look is not None:
                (folder / f"{name}.json").write_text(json.dumps(look.to_json()))
        (folder / "state.json").write_text(json.dumps(asdict(self.state)))

    def load(self, folder: Path) -> None:
        """Take up a run from what `save` wrote; before the first step."""
        assert self._feed is None, "load before the first step"
        self._encoder.model.load_state_dict(load_file(folder / "weights.safetensors"))
        best = folder / "best.safetensors"
        self._best = load_file(best) if best.exists() else None
        self._optimiser.load_state_dict(
            torch.load(folder / "optimiser.pt", map_location=self._device, weights_only=True)
        )
        self.before, self.best_look = (read_look(folder / f"{name}.json") for name in ("before", "best"))
        self.state = replace(State(**json.loads((folder / "state.json").read_text())), precision=self._course.precision)

    @property
    def best(self) -> Mapping[str, Tensor] | None:
        """Weights of the best good point; None where no point was good."""
        return self._best


def read_look(path: Path) -> Look | None:
    """A look that `save` wrote, if it did."""
    return Look.from_json(json.loads(path.read_text())) if path.exists() else None


def own_copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor in its own memory, on the CPU: safetensors refuses tied weights."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
