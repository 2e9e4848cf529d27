"""The training step: a cross-encoder learns from labelled queries and hard negatives to rank passages.

    train_teacher(config) -> teacher     a Hugging Face folder of a cross-encoder with one logit, and the queries it has seen

The work is done by `prepare.py` (arrays), `trainer.py` (steps) and `loop.py` (Ray Train). A killed run goes on from its
last checkpoint in the draft's scratch folder; the best weights on held-out queries become the teacher.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from safetensors.torch import load_file

from retort.config import JobConfig, Ref, plain
from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.errors import ConfigError, StorageError
from retort.models.imports import encoder_artefact
from retort.progress import QUIET, Progress
from retort.store import Artefact, Draft, Policy, enforce, inherited, open_store
from retort.teaching.checks import check_candidates
from retort.teaching.optimising import freeze
from retort.teaching.prepare import HeldOut, prepare
from retort.teaching.trained_on import TRAINED_ON, trained_on_table
from retort.teaching.trainer import MEASURE, Course, NotFiniteError
from retort.teaching.training_set import TrainingSet

__all__ = ["TrainTeacherConfig", "train_teacher"]

log = logging.getLogger(__name__)


class TrainTeacherConfig(JobConfig):
    """How a teacher is trained."""

    base: Annotated[str, Ref("encoder")] = Field(
        "minilm", description="What training starts from: an encoder artefact, a folder, a Hugging Face id, or minilm."
    )
    corpus: Annotated[str, Ref("corpus")] = Field(description="Corpus artefact with the passages' texts.")
    queries: Annotated[str, Ref("queries")] = Field(description="Training queries with qrels.")
    candidates: Annotated[str, Ref("candidates")] = Field(
        description="Candidates of the training queries: the hard negatives."
    )
    dev_queries: Annotated[str | None, Ref("queries")] = Field(
        None,
        description="Held-out queries with qrels that say when to stop. Default: one in twenty training queries, left out of training.",
    )
    dev_candidates: Annotated[str | None, Ref("candidates")] = Field(
        None,
        description="Candidates of the held-out queries. Default, with dev_queries: random passages, which is an easy test.",
    )
    loss: Literal["listwise", "pairwise"] = Field(
        "listwise", description="Softmax cross-entropy of each list, or logistic loss of each pair."
    )
    negatives: int = Field(2, ge=1, le=1000, description="Hard negatives per list, drawn anew each epoch.")
    random_negatives: int = Field(
        1, ge=0, le=1000, description="Further negatives per list, drawn from all candidates of all queries."
    )
    batch_queries: int = Field(8, ge=1, description="Lists per step over all workers.")
    epochs: float = Field(1.0, gt=0, description="Passes over the training queries.")
    max_steps: int | None = Field(None, ge=1, description="Steps after which training ends even within an epoch.")
    learning_rate: float = Field(1e-4, gt=0, description="Peak learning rate of the encoder's weights (AdamW).")
    head_learning_rate: float = Field(3e-4, gt=0, description="Peak learning rate of the new head.")
    weight_decay: float = Field(0.01, ge=0, description="Decay of weight matrices per step, times the learning rate.")
    warmup_share: float = Field(
        0.1, ge=0, le=1, description="Share of the steps over which the learning rate rises; then it falls to zero."
    )
    clip_norm: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout while training; a short run learns more without it.")
    frozen: tuple[str, ...] = Field(
        ("embeddings",), description="Weights left as they are, by parts of their name: embeddings, layer.0, ..."
    )
    max_tokens: int = Field(
        256, ge=16, le=8192, description="Longest pair in tokens; longer passages lose their end in training."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Arithmetic of the forward pass; auto: measured."
    )
    evaluate_every: int | None = Field(
        None, ge=1, description="Steps between evaluations and checkpoints. Default: a fifth of all steps."
    )
    patience: int = Field(
        3, ge=1, description="Evaluations without gain in held-out nDCG@10 after which training stops."
    )
    held_out_queries: int = Field(200, ge=1, description="Held-out queries used, at most.")
    held_out_depth: int = Field(20, ge=2, description="Passages per held-out query that the teacher ranks.")
    micro_batch_tokens: int = plain(
        16384, ge=512, description="Tokens of whole lists whose activations are held at once; less takes less memory."
    )
    max_failures: int = plain(3, ge=0, description="Lost workers after which the run gives up.")
    policy: Policy = plain(
        default_factory=Policy, description="Licences and personal data that base and data may bring along."
    )

    @model_validator(mode="after")
    def _dev_candidates_need_queries(self) -> TrainTeacherConfig:
        if self.dev_candidates is not None and self.dev_queries is None:
            raise ValueError("dev_candidates are given without dev_queries; give both, or neither")
        return self


def train_teacher(config: TrainTeacherConfig, progress: Progress = QUIET) -> Artefact:
    """Train a cross-encoder; return the teacher artefact.

    Raises:
        NotFoundError: an input is not in the store.
        ModelError: the base cannot become a cross-encoder, or its tokenizer has no offsets.
        InputError: candidates name ids that queries or corpus lack, texts are empty, or there is nothing labelled to learn from.
        PolicyError: an input brings a licence or personal data that the policy forbids.
        NotFiniteError: the loss became infinite or not a number; the last checkpoint is kept.
    """
    store = open_store(config.store)
    inputs = {
        "base": encoder_artefact(config.base, store),
        "corpus": store.get(config.corpus, "corpus"),
        "queries": store.get(config.queries, "queries"),
        "candidates": store.get(config.candidates, "candidates"),
    }
    if config.dev_queries is not None:
        inputs["dev_queries"] = store.get(config.dev_queries, "queries")
    if config.dev_candidates is not None:
        inputs["dev_candidates"] = store.get(config.dev_candidates, "candidates")
    enforce(config.policy, inputs)
    name = config.name or f"{inputs['base'].name}.{inputs['corpus'].name}"[:100]
    draft = store.draft("teacher", name, step="train-teacher", inputs=inputs, config=config.identity())
    done = draft.published
    if done is not None:
        progress.say(f"Teacher {done.name} is already made.")
        return done
    with draft:
        return draft.published or _train(config, draft, inputs, progress)


def _train(config: TrainTeacherConfig, draft: Draft, inputs: Mapping[str, Artefact], progress: Progress) -> Artefact:
    """Prepare, train and publish."""
    from retort.runtime.loop import run_training
    from retort.teaching.loop import DATA_FOLDER, initial_teacher, teach  # Ray: only where work is done

    teacher = initial_teacher(inputs["base"], config.seed, config.max_tokens)
    freeze(teacher.model, config.frozen)  # a wrong name is told now and not by a worker
    data = _training_set(config, inputs, teacher.tokenizer)
    course = _course(config, data)
    if not draft.has(f"{DATA_FOLDER}/done.json"):
        with tempfile.TemporaryDirectory(prefix="retort-") as folder:
            data.save(Path(folder))
            for path in sorted(Path(folder).iterdir(), key=lambda path: path.name == "done.json"):
                draft.put_file(f"{DATA_FOLDER}/{path.name}", path)
    progress.say(
        f"Training on {data.training_queries} queries for {course.steps} steps of {course.batch_queries} x {1 + course.negatives + course.random_negatives} pairs; "
        f"{len(data.held_out)} queries held out."
    )
    settings = {
        "base": inputs["base"],
        "frozen": list(config.frozen),
        "dropout": config.dropout,
        "course": asdict(course),
        "area": draft.area,
        "max_tokens": config.max_tokens,
    }
    with (
        tempfile.TemporaryDirectory(prefix="retort-") as folder,
        progress.task("training the teacher", course.steps) as task,
    ):
        shown = _Shown(task)
        try:
            outcome = run_training(
                teach,
                settings,
                config.resources,
                scratch=draft.scratch(),
                run_name="train-teacher",
                into=Path(folder) / "checkpoint",
                on_report=shown,
                max_failures=config.max_failures,
            )
        except NotFiniteError as error:
            raise NotFiniteError(
                f"{error} The last good checkpoint is kept in {draft.scratch()}. Lower learning_rate, or look at those texts."
            ) from None
        if outcome.checkpoint is None:
            raise StorageError(f"Training ended without a checkpoint in {draft.scratch()}; run the same command again.")
        state = json.loads((outcome.checkpoint / "state.json").read_text())
        teacher.model.load_state_dict(load_file(outcome.checkpoint / "best.safetensors"))
    with draft.folder_for() as target:
        teacher.save(target)
    count = data.training_queries
    draft.write_table(TRAINED_ON, trained_on_table(data.query_ids[:count], data.query_ids[count:]))
    if data.first_stage is not None and state["best_ndcg"] < data.first_stage:
        progress.say(
            f"Note: on held-out queries the teacher's nDCG@10 ({state['best_ndcg']:.3f}) is below that of the search which found the "
            f"candidates ({data.first_stage:.3f}). More steps or more labelled queries may help; look at the report before it teaches."
        )
    metrics = {
        "first_stage_" + MEASURE: None if data.first_stage is None else round(data.first_stage, 5),
        MEASURE: round(state["best_ndcg"], 5),
        "best_step": state["best_step"],
        "steps": state["step"],
        "held_out_queries": len(data.held_out),
        "training_queries": data.training_queries,
        "history": state["history"],
        "last_loss": shown.last.get("loss"),
    }
    return draft.publish(metrics=metrics, **inherited(inputs.values()))


def _training_set(config: TrainTeacherConfig, inputs: Mapping[str, Artefact], tokenizer: Any) -> TrainingSet:
    """Check the input and turn it into arrays."""
    queries, passages = QuerySet.open(inputs["queries"]), Passages.open(inputs["corpus"])
    check_candidates(inputs["candidates"], queries, passages)
    dev = QuerySet.open(inputs["dev_queries"]) if "dev_queries" in inputs else None
    if dev is not None and "dev_candidates" in inputs:
        check_candidates(inputs["dev_candidates"], dev, passages)
    return prepare(
        candidates=inputs["candidates"],
        queries=queries,
        passages=passages,
        tokenizer=tokenizer,
        max_tokens=config.max_tokens,
        held_out=HeldOut(config.held_out_queries, config.held_out_depth, config.seed),
        dev_queries=dev,
        dev_candidates=inputs.get("dev_candidates"),
    )


def _course(config: TrainTeacherConfig, data: TrainingSet) -> Course:
    """Turn the config into the numbers of this run."""
    workers = config.resources.workers
    if config.batch_queries < workers:
        raise ConfigError(
            f"batch_queries is {config.batch_queries}, fewer than the {workers} workers; each needs one list per step at least."
        )
    steps = max(1, math.ceil(config.epochs * data.training_queries / config.batch_queries))
    if config.max_steps is not None:
        steps = min(steps, config.max_steps)
    return Course(
        steps=steps,
        batch_queries=config.batch_queries,
        negatives=config.negatives,
        random_negatives=config.random_negatives,
        loss=config.loss,
        learning_rate=config.learning_rate,
        head_learning_rate=config.head_learning_rate,
        weight_decay=config.weight_decay,
        warmup_share=config.warmup_share,
        clip_norm=config.clip_norm,
        evaluate_every=config.evaluate_every or max(1, math.ceil(steps / 5)),
        patience=config.patience,
        seed=config.seed,
        micro_batch_tokens=config.micro_batch_tokens,
        precision=config.precision,
    )


class _Shown:
    """Turns the worker's reports into progress."""

    def __init__(self, task: Any) -> None:
        self._task = task
        self._step = 0
        self._ndcg: float | None = None
        self.last: dict[str, Any] = {}

    def __call__(self, report: Mapping[str, Any]) -> None:
        self.last.update(report)
        self._ndcg = report.get(MEASURE, self._ndcg)
        held_out = f", held-out nDCG@10 {self._ndcg:.3f}" if self._ndcg is not None else ""
        note = f"loss {report['loss']:.3f}, {self.last.get('pairs_per_s', 0):.0f} pairs/s{held_out}"
        # A run that was taken up starts behind the steps done before; one that lost a worker repeats a few.
        self._task.update(max(0, report["step"] - self._step), note=note)
        self._step = max(self._step, report["step"])
