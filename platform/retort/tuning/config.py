"""TuneConfig: what the query encoder learns from, how gently, and what guards the languages; `tune.py` is the step that reads it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from retort.config import JobConfig, Ref, plain
from retort.tuning.guard_settings import GuardSettings

__all__ = ["SweepSettings", "TuneConfig"]


class SweepSettings(BaseModel):
    """The search for the adiabatic limit: rates rise by `factor` until one damages a language, then the gap is halved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: float = Field(1e-7, gt=0, lt=1, description="First learning rate that is tried.")
    factor: float = Field(4.0, gt=1, description="Each rate is so many times the one before.")
    trials: int = Field(10, ge=1, le=100, description="Rates tried at most, those of the refinement included.")
    refine: int = Field(
        2, ge=0, description="Rates tried between the highest safe and the lowest unsafe one, on the logarithmic scale."
    )
    steps: int | None = Field(None, ge=1, description="Steps of each trial. Default: those of the run.")

    @model_validator(mode="after")
    def _consistent(self) -> SweepSettings:
        if self.refine >= self.trials:
            raise ValueError(
                f"refine is {self.refine} of {self.trials} trials, which leaves none to climb; raise trials"
            )
        return self


class TuneConfig(JobConfig):
    """How a query encoder is tuned over stored passage vectors."""

    # What it learns from
    embeddings: Annotated[str, Ref("embeddings")] = Field(
        description="The stored passage vectors that queries search; they are read and never changed."
    )
    queries: Annotated[str, Ref("queries")] = Field(
        description="Training queries, labelled with passages of that corpus."
    )
    encoder: Annotated[str | None, Ref("encoder")] = Field(
        None,
        description="The encoder copied as query encoder: an artefact, a folder, a Hugging Face id, or minilm. Default: the one that made the embeddings.",
    )
    dev_queries: Annotated[str | None, Ref("queries")] = Field(
        None, description="Labelled queries of the tuned task: their MRR@10 chooses rate and point. Default: none."
    )
    judgements: Annotated[str | None, Ref("judgements")] = Field(
        None, description="A teacher's judgements of the training queries' candidates, for loss: distil."
    )
    query_languages: tuple[str, ...] = Field(
        (), description="Learn only from queries whose lang is one of these, such as en-us. Default: all."
    )
    english_only: bool = Field(True, description="Refuse training queries that are in another language than `english`.")
    english: str = Field(
        "en", min_length=2, description="Language of the training queries; 'en' means its varieties too, such as en-us."
    )
    max_foreign_share: float = Field(
        0.02,
        ge=0,
        le=1,
        description="Share of training queries without a lang that may look certainly foreign before the run is refused.",
    )

    # What guards the languages
    guard_queries: Annotated[tuple[str, ...], Ref("queries")] = Field(
        (), description="Labelled queries in many languages, which must not be ranked worse."
    )
    guard_embeddings: Annotated[tuple[str, ...], Ref("embeddings")] = Field(
        (), description="Embeddings that each of guard_queries searches, in the same order. Default: `embeddings`."
    )
    guard: GuardSettings = Field(
        default_factory=lambda: GuardSettings.model_validate({}),
        description="What counts as a loss, and how it is looked for.",
    )
    unguarded: bool = Field(False, description="Tune without guard queries, knowing that no language is watched.")

    # The loss
    loss: Literal["triplet", "infonce", "distil"] = Field(
        "triplet", description="Triplet margin, InfoNCE over the batch's passages, or the teacher's ranking (KL)."
    )
    margin: float = Field(
        0.1,
        gt=0,
        description="How much closer the positive must be than a negative, in units of the score (cosine).",
    )
    temperature: float | None = Field(
        None, gt=0, description="Divides scores in infonce and distil. Default: 0.05 for cosines, 1 for inner products."
    )
    teacher_temperature: float = Field(1.0, gt=0, description="Divides the teacher's logits in loss: distil.")
    negatives: int = Field(4, ge=1, le=1000, description="Negatives per query and step.")
    random_share: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Share of the negatives drawn from the whole corpus at random, the others are hard.",
    )
    hard_depth: int = Field(
        50, ge=1, le=10_000, description="Hard negatives are drawn from so many best passages of the untuned encoder."
    )
    false_negative_cut: float | None = Field(
        None,
        gt=0,
        description="Leave out negatives scoring above this share of the positive's score, such as 0.95. Default: none is left out.",
    )

    # The course
    frozen: tuple[str, ...] = Field(
        ("embeddings",),
        description="Weights left as they are: parts of their name (embeddings, layer.0), 'output.dense.weight' (the last of each block), 'first:N' layers, pooler.",
    )
    learning_rate: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(
        "auto", description="Constant rate of AdamW, or auto: the adiabatic limit is searched for."
    )
    sweep: SweepSettings = Field(
        default_factory=lambda: SweepSettings.model_validate({}),
        description="The search for the rate, where it is auto.",
    )
    epochs: float = Field(1.0, gt=0, description="Passes over the training queries.")
    steps: int | None = Field(None, ge=1, description="Steps, whatever the epochs say.")
    batch_queries: int = Field(32, ge=1, description="Queries per step over all workers.")
    warmup_steps: int = Field(0, ge=0, description="Steps over which the rate rises to its constant value.")
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW's decay of its two averages.")
    eps: float = Field(1e-8, gt=0, description="AdamW's epsilon.")
    weight_decay: float = Field(
        0.0,
        ge=0,
        description="Decay of weight matrices per step, times the rate; it moves weights without any reason to.",
    )
    clip_norm: float | None = Field(None, gt=0, description="Largest norm of the gradient. Default: not clipped.")
    dropout: float | None = Field(0.0, ge=0, lt=1, description="Dropout while training; none: the model's own.")
    master: Literal["float64", "kahan", "float32"] = Field(
        "float64",
        description="What the optimiser keeps: float64 masters, float32 with Kahan compensation, or float32 alone (steps of 2e-8 round away).",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Of matrix products in the forward pass; auto: what is faster on this machine."
    )
    max_query_tokens: int = Field(
        64, ge=4, description="Tokens of a query that training and guard read; the encoder's own limit stays."
    )

    # How it runs
    checkpoint_minutes: float = plain(5.0, gt=0, description="Minutes between checkpoints, besides those after looks.")
    checkpoint_steps: int | None = plain(None, ge=1, description="Steps between checkpoints, besides those by time.")
    max_failures: int = plain(3, ge=0, description="Lost workers after which the run gives up.")

    @model_validator(mode="after")
    def _consistent(self) -> TuneConfig:
        if self.guard_embeddings and len(self.guard_embeddings) != len(self.guard_queries):
            raise ValueError(
                f"guard_embeddings names {len(self.guard_embeddings)} and guard_queries {len(self.guard_queries)} artefacts; "
                "give one of each per set, or leave guard_embeddings out"
            )
        if not self.guard_queries and not self.unguarded:
            raise ValueError(
                "guard_queries is empty, so no language would be watched; name labelled queries in the languages to keep, "
                "or set unguarded to true"
            )
        if self.guard_queries and self.unguarded:
            raise ValueError("unguarded is true although guard_queries are given; leave one of them out")
        if self.learning_rate == "auto":
            missing = [name for name in ("guard_queries", "dev_queries") if not getattr(self, name)]
            if missing:
                raise ValueError(
                    f"learning_rate is auto, for which {' and '.join(missing)} must be given: the highest rate that keeps "
                    "the guard's languages is searched for, and the dev queries choose below it; or give a rate"
                )
        if self.loss == "distil" and self.judgements is None:
            raise ValueError(
                "loss is distil without judgements; name what a teacher said, or choose triplet or infonce"
            )
        if self.batch_queries < self.resources.workers:
            raise ValueError(
                f"batch_queries is {self.batch_queries}, fewer than the {self.resources.workers} workers; each needs one query at least"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {self.betas}; each must be at least 0 and below 1")
        return self
