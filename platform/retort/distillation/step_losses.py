"""The losses of one step, over the vectors of the whole batch and the token states of each chunk.

Each part is summed over this worker's items, divided by the count of the *global* batch, and multiplied by the number of
workers, over which data parallelism averages: any cut of a batch, over workers or chunks, gives the same gradient.

    contrastive   mean over labelled queries
    sentence      mean over queries with two judged candidates or more among the columns
    word          mean over pairs with a word map, both directions alike, times the pair's trust
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from retort.distillation.collate import Chunk, StepInput
from retort.distillation.course import PARTS, Course
from retort.distillation.gather import gather_numbers, gather_rows, sum_over_workers
from retort.distillation.losses import SENTENCE_LOSSES, contrastive_loss
from retort.distillation.pool import view_pool
from retort.distillation.towers import EncodedChunk
from retort.distillation.training_set import TrainingSet
from retort.distillation.word_level import student_word_maps, two_way_loss

__all__ = ["StepLosses"]


@dataclass(frozen=True)
class _Columns:
    """What each query is compared with; see `losses.py` for the masks."""

    negative: Tensor  # [queries, columns] bool
    judged: Tensor  # [queries, 1 + columns] bool; in front the positive, or the teacher's best
    scores: Tensor  # [queries, 1 + columns] float32
    trust: Tensor  # [queries, 1 + columns] float32


class StepLosses:
    """The losses of one step, as `backward_in_chunks` wants them; keeps their parts for the report."""

    def __init__(self, course: Course, data: TrainingSet, given: StepInput, device: torch.device, world: int) -> None:
        """Look at the pool from each query; with several workers this gathers, so all of them make theirs together."""
        self._course, self._data, self._given = course, data, given
        self._device, self._world = device, world
        self.parts = dict.fromkeys(PARTS, 0.0)
        self._bad = np.zeros(len(given.batch.queries), dtype=bool)
        self._bad_words = False
        self._counts = dict.fromkeys(PARTS, 1.0)
        self._columns = self._see()

    def _see(self) -> _Columns:
        """What each query is compared with: a positive in front, the pool (or its own candidates) behind."""
        given = self._given
        if self._course.pool == "own":
            arrays = (given.present[:, 1:], given.judged[:, 1:], given.scores[:, 1:], given.trust[:, 1:])
        else:
            rows = gather_numbers(given.pool, self._device) if self._course.pool == "all" else given.pool
            view = view_pool(rows, given.batch.queries, self._data)
            # The first candidate stands in front already.
            behind = view.judged & (rows[None, :] != given.batch.candidates[:, :1])
            arrays = (
                torch.from_numpy(view.negative), torch.from_numpy(behind), torch.from_numpy(view.scores), torch.from_numpy(view.trust),
            )  # fmt: skip
        negative, judged, scores, trust = (array.to(self._device) for array in arrays)
        front = [array[:, :1].to(self._device) for array in (given.judged, given.scores, given.trust)]
        return _Columns(
            negative=negative,
            judged=torch.cat([front[0], judged], dim=1),
            scores=torch.cat([front[1], scores], dim=1),
            trust=torch.cat([front[2], trust], dim=1),
        )

    def count(self, flag: bool) -> tuple[bool, bool]:
        """Count, over all workers, what each loss is a mean of.

        Returns whether any worker raised the flag, and whether any worker has more than one chunk.
        """
        lists = (self._columns.judged.sum(dim=1) > 1).sum()  # two judgements at least: something to compare
        counts = [float(self._given.labelled.sum()), float(lists), float(self._given.mapped_pairs)]
        mine = [*counts, float(flag), float(len(self._given.chunks) > 1)]
        total = sum_over_workers(mine, self._device)
        self._counts = {name: max(1.0, count) for name, count in zip(PARTS, total[:3], strict=True)}
        return total[3] > 0, total[4] > 0

    def of_vectors(self, vectors: list[Tensor]) -> Tensor:
        """Contrastive and sentence-level loss over the whole batch."""
        given, course, columns = self._given, self._course, self._columns
        queries = torch.cat([v[: c.query_count] for c, v in zip(given.chunks, vectors, strict=True)])  # [queries, dim]
        passages = torch.cat([v[c.query_count :] for c, v in zip(given.chunks, vectors, strict=True)])  # [columns, dim]
        if course.pool == "own":
            candidates = passages[given.columns.to(self._device)]  # [queries, candidates, dim]
            scores = torch.einsum("qd,qcd->qc", queries, candidates)  # [queries, candidates]
        else:
            front = (queries * passages[given.columns[:, 0].to(self._device)]).sum(dim=1, keepdim=True)  # [queries, 1]
            pool = gather_rows(passages) if course.pool == "all" else passages  # [all columns, dim]
            scores = torch.cat([front, queries @ pool.T], dim=1)  # [queries, 1 + all columns]
        # Zero, but known to autograd: a batch without labels and judgements still has a (zero) gradient to exchange.
        total = scores.sum() * 0.0
        if course.contrastive_weight:
            scaled = scores / course.temperature
            positive = given.labelled.to(self._device).unsqueeze(1)  # [queries, 1]
            losses = contrastive_loss(scaled[:, :1], positive, scaled[:, 1:], columns.negative)  # [queries]
            total = total + course.contrastive_weight * self._taken("contrastive", losses)
        if course.sentence_weight:
            losses = SENTENCE_LOSSES[course.sentence_loss](
                scores / course.student_temperature,
                columns.scores / course.teacher_temperature,
                columns.judged,
                columns.trust,
            )  # [queries]
            total = total + course.sentence_weight * self._taken("sentence", losses)
        return total * self._world

    def of_words(self, chunk: Chunk, encoded: EncodedChunk) -> Tensor | None:
        """Word-level loss of a chunk, or None where it has no targets."""
        course = self._course
        total: Tensor | None = None
        for number, target in enumerate(chunk.targets):
            if target is None or not course.word_weight:
                continue
            on = target.to(self._device)
            query_words, passage_words = on.matrices()
            forward, backward = student_word_maps(
                encoded.query_states[on.queries],
                encoded.passage_states[number][on.passages],
                query_words,
                passage_words,
                temperature=course.word_temperature,
            )
            losses = (
                two_way_loss(forward, backward, on.index, on.weight, on.rest, on.rows, on.row_weight) * on.trust
            )  # [pairs]
            self._bad_words |= not bool(torch.isfinite(losses.detach()).all())
            loss = self._taken("word", losses)
            total = loss if total is None else total + loss
        return None if total is None else total * (course.word_weight * self._world)

    def _taken(self, name: str, losses: Tensor) -> Tensor:
        """Sum over this worker's items divided by the global count; noted for the report."""
        mean = losses.sum() / self._counts[name]
        self.parts[name] += float(mean.detach())
        if name != "word":
            self._bad |= ~torch.isfinite(losses.detach()).cpu().numpy()
        return mean

    def bad_queries(self) -> list[str]:
        """Ids of this worker's queries whose loss is not finite."""
        names = [self._data.query_ids[row] for row in self._given.batch.queries[self._bad].tolist()]
        if self._bad_words and not names:
            names = [self._data.query_ids[row] for row in self._given.batch.queries.tolist()]
        return names
