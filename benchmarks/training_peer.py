"""The peer of `training.py`: sentence-transformers' own trainer on the same lists, in the same order."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import harness  # noqa: F401 (sets threads before torch is imported)
from transformers import TrainerCallback

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.distillation.course import Course
from retort.distillation.trainer import DistilTrainer
from retort.distillation.training_set import TrainingSet
from retort.models.backend import pick_device
from retort.store import Artefact
from retort.teaching.optimising import set_dropout

WARM = 2  # steps left out of every timing


class Stamps(TrainerCallback):
    """Notes when each step ended, and its loss."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.losses: list[float] = []

    def on_step_end(self, *given: Any, **named: Any) -> None:
        self.at.append(time.perf_counter())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **named: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


class Peer:
    """sentence-transformers' trainer on the same lists in the same order."""

    def __init__(
        self,
        *,
        data: TrainingSet,
        queries: Artefact,
        corpus: Artefact,
        base: Artefact,
        ours: DistilTrainer,
        course: Course,
        cut: int,
        steps: int,
    ) -> None:
        from datasets import Dataset

        count = course.batch_queries
        batches = [ours._sampler.batch(step) for step in range(steps)]
        asked, passages = QuerySet.open(queries), Passages.open(corpus)
        text_of = dict(zip(asked.ids, asked.texts, strict=True))
        columns: dict[str, list[Any]] = {
            "query": [text_of[data.query_ids[row]] for batch in batches for row in batch.queries]
        }
        for place in range(1 + course.negatives):
            ids = [data.passage_ids[row] for batch in batches for row in batch.candidates[:, place]]
            columns[f"passage{place}"] = passages.texts(ids)
        columns["label"] = [row.tolist() for batch in batches for row in ours._collator._judgements(batch)[1]]
        self._dataset, self._batch, self._steps, self._base = (
            Dataset.from_dict(columns),
            count,
            steps,
            base.local(),
        )
        self._learning_rate, self._bf16 = course.learning_rate, course.precision == "bf16"
        self._cut = cut
        self.first_loss: float | None = None
        self.attention = "sdpa"

    def choose(self) -> dict[str, float]:
        """Take the attention implementation that is faster here; return both rates."""
        rates = {}
        for name in ("sdpa", "eager"):
            self.attention = name
            rates[name] = self.rate(min(self._steps, WARM + 3))
        self.attention = max(rates, key=rates.__getitem__)
        return rates

    def rate(self, steps: int | None = None) -> float:
        """Examples/s of a run from the base, the first steps left out."""
        from sentence_transformers import (
            SentenceTransformer,
            SentenceTransformerTrainer,
            SentenceTransformerTrainingArguments,
        )
        from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss
        from torch.utils.data import BatchSampler, SequentialSampler

        def in_order(dataset: Any, batch_size: int, drop_last: bool, **given: Any) -> BatchSampler:
            return BatchSampler(SequentialSampler(dataset), batch_size, drop_last)

        stamps = Stamps()
        cuda = pick_device().type == "cuda"
        model = SentenceTransformer(
            str(self._base), device=str(pick_device()), model_kwargs={"attn_implementation": self.attention}
        )
        model.max_seq_length = self._cut
        for name, weight in model.named_parameters():
            weight.requires_grad_("embeddings" not in name.split("."))
        set_dropout(model, 0.0)
        with tempfile.TemporaryDirectory() as folder:
            args = SentenceTransformerTrainingArguments(
                output_dir=folder, max_steps=steps or self._steps, per_device_train_batch_size=self._batch, bf16=self._bf16, use_cpu=not cuda,
                learning_rate=self._learning_rate, lr_scheduler_type="linear", weight_decay=0.01, max_grad_norm=1.0, optim="adamw_torch", seed=13,
                logging_steps=1, logging_first_step=True, save_strategy="no", report_to="none", disable_tqdm=True, batch_sampler=in_order,
                dataloader_num_workers=0,
            )  # fmt: skip
            # Temperature 1 for both: its loss is then the same number as ours.
            loss = DistillKLDivLoss(model, temperature=1.0)
            SentenceTransformerTrainer(
                model=model, args=args, train_dataset=self._dataset, loss=loss, callbacks=[stamps]
            ).train()
        self.first_loss = stamps.losses[0]
        return self._batch * (len(stamps.at) - WARM) / (stamps.at[-1] - stamps.at[WARM - 1])
