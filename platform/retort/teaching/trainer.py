"""One worker's part of training a teacher: a step, an evaluation, and a state that can be saved and taken up again.

No Ray in here: `loop.py` is the shell that runs this class in every worker of Ray Train. With several workers torch's
process group is up and the module comes wrapped for data parallelism; sums over workers go through `torch.distributed`.

A step is a pure function of (weights, optimiser state, seed, step, rank, world size): the lists come from `groups.py`,
the learning rate from the step number, and dropout from a generator that is seeded anew for each step. So a run taken up
from a checkpoint goes on exactly as one that was never interrupted.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from retort.errors import RetortError
from retort.metrics.measures import evaluate
from retort.models.backend import autocast, default_token_budget
from retort.models.batching import token_batches
from retort.teaching.groups import Batch, GroupSampler
from retort.teaching.losses import LOSSES
from retort.teaching.optimising import learning_rate_factor, mix_seed, parameter_groups
from retort.teaching.training_set import TrainingSet

__all__ = ["MEASURE", "Course", "NotFiniteError", "State", "TeacherTrainer"]

MEASURE = "ndcg@10"


class NotFiniteError(RetortError):
    """The loss or its gradient is no longer a number."""


@dataclass(frozen=True)
class Course:
    """How to train: the numbers of a run, plain so that they travel to workers as JSON."""

    steps: int
    batch_queries: int
    negatives: int
    random_negatives: int
    loss: str
    learning_rate: float
    head_learning_rate: float
    weight_decay: float
    warmup_share: float
    clip_norm: float
    evaluate_every: int
    patience: int
    seed: int
    micro_batch_tokens: int
    precision: str  # "fp32" | "bf16" | "auto": what is faster on every worker


@dataclass
class State:
    """Where a run is; written beside the weights in each checkpoint."""

    step: int = 0  # steps done
    best_step: int = -1
    best_ndcg: float = -1.0
    evaluations_without_gain: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


class TeacherTrainer:
    """Trains one replica of a cross-encoder."""

    def __init__(
        self,
        module: nn.Module,
        data: TrainingSet,
        course: Course,
        *,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        parallel: nn.Module | None = None,
    ) -> None:
        """Take a Hugging Face sequence classifier with one logit.

        `parallel` is the same module wrapped in DistributedDataParallel, where there are several workers.
        """
        self._module = module
        self._parallel = parallel if parallel is not None else module
        self._data = data
        self._course = course
        self._device = torch.device(device)
        self._rank, self._world = rank, world
        self._loss = LOSSES[course.loss]
        self._sampler = GroupSampler(
            data.positives,
            data.pool,
            passage_rows=len(data.passage_tokens),
            batch_queries=course.batch_queries,
            negatives=course.negatives,
            seed=course.seed,
            random_negatives=course.random_negatives,
        )
        self._optimiser = torch.optim.AdamW(
            parameter_groups(module, course.learning_rate, course.head_learning_rate, course.weight_decay),
            betas=(0.9, 0.999),
            eps=1e-8,
        )
        self._peaks = [group["lr"] for group in self._optimiser.param_groups]
        self.state = State()
        self._best: dict[str, Tensor] | None = None

    # One step ---------------------------------------------------------------------------------------------------------

    def step(self) -> float:
        """Do the next step on the global batch; return its mean loss over all workers.

        Raises:
            NotFiniteError: loss or gradient is not finite; the weights are those before the step, on every worker.
        """
        step, course = self.state.step, self._course
        torch.manual_seed(mix_seed(course.seed, step, self._rank))
        factor = learning_rate_factor(step, course.steps, course.warmup_share)
        for group, peak in zip(self._optimiser.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor

        self._module.train()
        self._optimiser.zero_grad(set_to_none=True)
        batch = self._sampler.batch(step, self._rank, self._world)
        losses = torch.zeros(len(batch.queries))
        micro_batches = list(self._micro_batches(batch))
        for i, rows in enumerate(micro_batches):
            with self._synchronised(i == len(micro_batches) - 1):
                logits = self._list_logits(batch.queries[rows], batch.passages[rows])  # [lists, 1 + negatives]
                loss = self._loss(logits, torch.from_numpy(batch.mask[rows]).to(self._device))  # [lists]
                # Gradients are averaged over workers: times world makes that the mean over the global batch.
                torch.autograd.backward(loss.sum() * self._world / batch.global_lists)
            losses[rows] = loss.detach().float().cpu()
        trained = [parameter for parameter in self._module.parameters() if parameter.grad is not None]
        norm = nn.utils.clip_grad_norm_(trained, course.clip_norm)
        mean = self._sum_over_workers(float(losses.sum())) / batch.global_lists
        if not (math.isfinite(mean) and math.isfinite(float(norm))):
            raise NotFiniteError(self._describe_failure(batch, losses, mean))
        self._optimiser.step()
        self.state.step += 1
        return mean

    def _micro_batches(self, batch: Batch) -> Iterator[NDArray[np.int64]]:
        """Yield list numbers whose pairs have at most `micro_batch_tokens` tokens together; one list at least."""
        queries = np.repeat(batch.queries, batch.passages.shape[1])
        flat = np.where(batch.mask, batch.passages, 0).reshape(-1)
        tokens = (
            (self._data.pair_lengths(queries, flat) * batch.mask.reshape(-1)).reshape(batch.passages.shape).sum(axis=1)
        )
        rows: list[int] = []
        room = self._course.micro_batch_tokens
        for i, size in enumerate(tokens.tolist()):
            if rows and size > room:
                yield np.array(rows)
                rows, room = [], self._course.micro_batch_tokens
            rows.append(i)
            room -= size
        if rows:
            yield np.array(rows)

    def _list_logits(self, queries: NDArray[np.integer], passages: NDArray[np.integer]) -> Tensor:
        """Return [lists, columns] float32 logits, zero where there is no passage."""
        lists, columns = np.nonzero(passages >= 0)
        logits = self._pair_logits(queries[lists], passages[lists, columns])  # [pairs]
        grid = torch.zeros(passages.shape, device=logits.device)
        return grid.index_put(
            (torch.from_numpy(lists).to(grid.device), torch.from_numpy(columns).to(grid.device)), logits
        )

    def _pair_logits(self, queries: NDArray[np.integer], passages: NDArray[np.integer]) -> Tensor:
        """Return [pairs] float32 logits, in the order given; forward passes go over pairs of like length."""
        lengths = self._data.pair_lengths(queries, passages)
        order, logits = [], []
        # A micro-batch in several passes: pairs of one length with little padding, still enough work for the device.
        for rows in token_batches(lengths, default_token_budget(self._device)):
            pairs = [self._data.pair_tokens(int(queries[i]), int(passages[i])) for i in rows]
            with autocast(self._course.precision, self._device):
                output = self._parallel(**self._data.layout.assemble(pairs, self._device))
            logits.append(output.logits.float().reshape(-1))  # [pairs of this length]
            order.append(np.asarray(rows))
        back = torch.from_numpy(np.argsort(np.concatenate(order))).to(self._device)
        return torch.cat(logits)[back]  # [pairs]

    def _synchronised(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Let workers exchange gradients in the last micro-batch only."""
        if last or not isinstance(self._parallel, nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext()
        return self._parallel.no_sync()

    # Held-out queries ---------------------------------------------------------------------------------------------------

    def evaluate(self) -> float:
        """Return nDCG@10 of the held-out lists, re-ranked by the teacher; over all workers."""
        mine = list(range(self._rank, len(self._data.held_out), self._world))
        run: dict[str, dict[str, float]] = {}
        qrels: dict[str, dict[str, int]] = {}
        queries = [np.full(len(self._data.held_out[i]), self._data.training_queries + i) for i in mine]
        passages = [np.asarray(self._data.held_out[i]) for i in mine]
        self._module.eval()
        with torch.no_grad():
            scores = self._scores(np.concatenate(queries), np.concatenate(passages)) if mine else np.zeros(0)
        start = 0
        for i, rows in zip(mine, passages, strict=True):
            ids = [str(row) for row in rows.tolist()]
            run[str(i)] = dict(zip(ids, scores[start : start + len(ids)].tolist(), strict=True))
            grades = self._data.grades[i].tolist()
            qrels[str(i)] = {name: int(grade) for name, grade in zip(ids, grades, strict=True) if grade > 0}
            start += len(ids)
        total = sum(evaluate(run, qrels, (MEASURE,))[MEASURE].values()) if mine else 0.0
        return self._sum_over_workers(total) / max(1, len(self._data.held_out))

    def _scores(self, queries: NDArray[np.integer], passages: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return [pairs] float32 logits of an evaluation; logits that are not finite count as the lowest."""
        module, self._parallel = self._parallel, self._module  # no gradients to exchange: ranks may differ in batches
        try:
            scores = self._pair_logits(queries, passages).cpu().numpy()
        finally:
            self._parallel = module
        finite: NDArray[np.float32] = np.nan_to_num(scores, nan=-1e30, posinf=-1e30, neginf=-1e30)
        return finite

    @property
    def finished(self) -> bool:
        """Whether the course is over, or the held-out measure has not risen for too long."""
        return self.state.step >= self._course.steps or self.state.evaluations_without_gain >= self._course.patience

    def record(self, ndcg: float) -> None:
        """Note an evaluation, and keep the weights when they are the best so far."""
        state = self.state
        state.history.append({"step": state.step, MEASURE: ndcg})
        if ndcg > state.best_ndcg:
            state.best_ndcg, state.best_step, state.evaluations_without_gain = ndcg, state.step, 0
            self._best = {name: tensor.detach().cpu().clone() for name, tensor in self._module.state_dict().items()}
        else:
            state.evaluations_without_gain += 1

    # Checkpoints --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write weights, best weights, optimiser and state under `folder`; any one rank's are everybody's."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_own(self._module.state_dict()), folder / "weights.safetensors")
        if self._best is not None:
            save_file(_own(self._best), folder / "best.safetensors")
        torch.save(self._optimiser.state_dict(), folder / "optimiser.pt")
        (folder / "state.json").write_text(json.dumps(asdict(self.state)))

    def load(self, folder: Path) -> None:
        """Take up a run from what `save` wrote."""
        self._module.load_state_dict(load_file(folder / "weights.safetensors"))
        best = folder / "best.safetensors"
        self._best = load_file(best) if best.exists() else None
        self._optimiser.load_state_dict(
            torch.load(folder / "optimiser.pt", map_location=self._device, weights_only=True)
        )
        self.state = State(**json.loads((folder / "state.json").read_text()))

    # Between workers ----------------------------------------------------------------------------------------------------

    def _sum_over_workers(self, value: float) -> float:
        if self._world == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64, device=self._device)
        dist.all_reduce(total)
        return float(total)

    def _describe_failure(self, batch: Batch, losses: Tensor, mean: float) -> str:
        """Say which step and queries went wrong; called on every worker, for it gathers."""
        bad = batch.queries[~torch.isfinite(losses).numpy()].tolist()
        if self._world > 1:
            gathered: list[list[int]] = [[] for _ in range(self._world)]
            dist.all_gather_object(gathered, bad)
            bad = [row for share in gathered for row in share]
        names = [self._data.query_ids[row] for row in bad]
        whose = f"lists of queries {', '.join(names[:5])}" if names else "the gradient; each list's own loss is finite"
        return f"Training stopped at step {self.state.step}: the loss is {mean} (not finite: {whose})."


def _own(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give each tensor its own memory: safetensors refuses tied weights."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
