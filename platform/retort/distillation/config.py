"""DistilConfig: what a student learns from, by which losses, and how it is trained; `distil.py` is the step that reads it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from retort.config import JobConfig, Ref, plain
from retort.distillation.search_space import SearchSettings
from retort.mining.filtering import FilterSettings
from retort.store import Policy

__all__ = ["DistilConfig"]


class DistilConfig(JobConfig):
    """How a student is distilled."""

    # What it learns from
    corpus: Annotated[str, Ref("corpus")] = Field(description="Corpus artefact with the passages' texts.")
    queries: Annotated[str, Ref("queries")] = Field(description="Training queries, with qrels where there are any.")
    judgements: Annotated[str, Ref("judgements")] = Field(
        description="What the teacher said about the training queries' candidates."
    )
    base: Annotated[str, Ref("encoder")] = Field(
        "minilm",
        description="The encoder to be better than, and to start from: an artefact, a folder, a Hugging Face id, or minilm.",
    )
    start: Annotated[str | None, Ref("encoder")] = Field(
        None,
        description="The encoder to start from in a later round: the student of the round before. Default: the base.",
    )
    dev_queries: Annotated[str | None, Ref("queries")] = Field(
        None, description="Labelled queries that choose the best checkpoint. Default: none, the last one is taken."
    )
    dev_candidates: Annotated[str | None, Ref("candidates")] = Field(
        None, description="Candidates of the dev queries, to make the dev pool hard. Default: random passages only."
    )
    embeddings: Annotated[str | None, Ref("embeddings")] = Field(
        None,
        description="The base's vectors of the corpus, to find similar queries by their answers too. Default: by the queries alone.",
    )
    teacher_audit: Annotated[str | None, Ref("report")] = Field(
        None,
        description="Audit of the teacher behind the judgements: one that failed is refused. Default: not asked for.",
    )
    use_unlabelled: bool = Field(True, description="Learn from queries without labels too, from the teacher alone.")
    use_unjudged: bool = Field(
        True, description="Learn from labelled queries that the teacher did not judge too, by contrast alone."
    )

    # The losses
    contrastive_weight: float = Field(1.0, ge=0, description="Weight of the contrastive loss over labels.")
    sentence_weight: float = Field(0.5, ge=0, description="Weight of the teacher's scores.")
    word_weight: float = Field(0.5, ge=0, description="Weight of the teacher's word maps.")
    sentence_loss: Literal["kl", "margin"] = Field(
        "kl", description="KL divergence over the candidates, or margin-MSE."
    )
    temperature: float | None = Field(
        None,
        gt=0,
        description="Divides scores in the contrastive loss. Default: 0.05 for cosines, 1 for inner products.",
    )
    student_temperature: float | None = Field(
        None,
        gt=0,
        description="Divides the student's scores at the sentence level. Default: the contrastive temperature.",
    )
    teacher_temperature: float = Field(1.0, gt=0, description="Divides the teacher's logits at the sentence level.")
    word_temperature: float = Field(
        1.0, gt=0, description="Divides the student's word scores, beside the square root of the dimension."
    )

    # The batches
    batch_queries: int = Field(32, ge=1, description="Queries per step over all workers.")
    negatives: int = Field(2, ge=0, le=1000, description="Candidates drawn per query and epoch, besides its positive.")
    pool: Literal["all", "worker", "own"] = Field(
        "all",
        description="Passages a query is compared with: those of all workers' batches, of its worker's, or its own only.",
    )
    similar: int = Field(
        8, ge=1, description="Queries of a batch that are neighbours of each other; 1: none on purpose."
    )
    max_query_tokens: int = Field(
        48, ge=4, description="Tokens of a query that training reads; the encoder's own limit stays."
    )
    max_passage_tokens: int = Field(
        128, ge=4, description="Tokens of a passage that training reads; the encoder's own limit stays."
    )

    # False negatives
    filter: FilterSettings = Field(
        default_factory=lambda: FilterSettings.model_validate({}),
        description="Which candidates are dropped as false negatives.",
    )
    round: int = Field(
        0, ge=0, description="Number of this round of training and mining; the filter gets tighter with it."
    )
    rounds: int = Field(
        1,
        ge=1,
        description="Rounds in all, over which the learning rate falls; 1: in each it rises to its peak and falls to zero.",
    )

    # The student and its course
    layers: int | None = Field(None, ge=1, description="Layers of a smaller student. Default: all of the base's.")
    frozen: tuple[str, ...] = Field(
        ("embeddings",), description="Weights left as they are, by parts of their name: embeddings, layer.0, ..."
    )
    dropout: float | None = Field(0.0, ge=0, lt=1, description="Dropout while training; none: the model's own.")
    epochs: float = Field(1.0, gt=0, description="Passes over the training queries.")
    max_steps: int | None = Field(None, ge=1, description="Steps after which training ends even within an epoch.")
    learning_rate: float = Field(1e-4, gt=0, description="Peak learning rate (AdamW).")
    weight_decay: float = Field(0.01, ge=0, description="Decay of weight matrices per step, times the learning rate.")
    warmup_share: float = Field(
        0.1, ge=0, le=1, description="Share of the steps over which the learning rate rises; then it falls to zero."
    )
    clip_norm: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Of matrix products; auto: what is faster on this machine."
    )

    # Finding weights, temperatures and rate
    search: SearchSettings = Field(
        default_factory=lambda: SearchSettings.model_validate({}),
        description="A small search for loss weights, temperatures and learning rate before the run; off unless search.trials is given.",
    )

    # Choosing the best checkpoint
    evaluate_every: int | None = Field(
        None, ge=1, description="Steps between evaluations on the dev pool. Default: at half time and at the end."
    )
    patience: int = Field(1000, ge=1, description="Evaluations without gain after which training stops.")
    dev_pool_queries: int = Field(256, ge=1, description="Dev queries used, at most.")
    dev_pool_passages: int = Field(
        1024, ge=2, description="Passages of the dev pool; more if there are more positives."
    )

    # How it runs
    chunk_tokens: int = plain(
        16384, ge=256, description="Tokens whose activations a worker holds at once (gradient caching beyond it)."
    )
    forward_tokens: int | None = plain(
        None, ge=64, description="Padded tokens of one forward pass. Default: 1024 on a CPU, 16384 on a GPU."
    )
    checkpoint_minutes: float = plain(5.0, gt=0, description="Minutes between checkpoints.")
    checkpoint_steps: int | None = plain(None, ge=1, description="Steps between checkpoints, besides those by time.")
    max_failures: int = plain(3, ge=0, description="Lost workers after which the run gives up.")
    policy: Policy = plain(
        default_factory=Policy, description="Licences and personal data that base, teacher and data may bring along."
    )

    def identity(self) -> dict[str, Any]:
        """As every job's; a search that is off does not make another encoder, nor do rounds that do not share a rate."""
        values = super().identity()
        if not self.search.trials:
            del values["search"]
        if self.rounds == 1:
            del values["rounds"]
        return values

    @model_validator(mode="after")
    def _consistent(self) -> DistilConfig:
        if not (self.contrastive_weight or self.sentence_weight or self.word_weight):
            raise ValueError("all three loss weights are 0; give at least one of them a weight")
        if self.dev_candidates is not None and self.dev_queries is None:
            raise ValueError("dev_candidates are given without dev_queries; give both, or neither")
        if self.search.trials and self.dev_queries is None:
            raise ValueError(
                "search.trials are given without dev_queries, by which trials are judged; give dev_queries"
            )
        if self.rounds > 1 and self.round >= self.rounds:
            raise ValueError(
                f"round is {self.round} and rounds is {self.rounds}; rounds are numbered from 0 to {self.rounds - 1}"
            )
        if self.batch_queries < self.resources.workers:
            raise ValueError(
                f"batch_queries is {self.batch_queries}, fewer than the {self.resources.workers} workers; each needs one query at least"
            )
        if self.similar > self.batch_queries:
            raise ValueError(f"similar is {self.similar}, more than the {self.batch_queries} queries of a batch")
        return self
