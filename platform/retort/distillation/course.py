"""The numbers of a run, and where it stands; plain, so that they travel to workers and into checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["PARTS", "Course", "State"]

PARTS = ("contrastive", "sentence", "word")


@dataclass(frozen=True)
class Course:
    """How to train: the numbers of a run, plain so that they travel to workers."""

    steps: int
    batch_queries: int
    negatives: int
    pool: str  # "all" | "worker" | "own"
    similar: int
    contrastive_weight: float
    sentence_weight: float
    word_weight: float
    sentence_loss: str
    temperature: float
    student_temperature: float
    teacher_temperature: float
    word_temperature: float
    learning_rate: float
    weight_decay: float
    warmup_share: float
    clip_norm: float
    round: int  # number of this round, from 0, of those over which the rate falls
    rounds: int
    evaluate_every: int
    patience: int
    seed: int
    chunk_tokens: int
    forward_tokens: int | None  # None: what suits the worker's device
    precision: str  # "fp32" | "bf16" | "auto": what is faster on every worker


@dataclass
class State:
    """Where a run is; written beside the weights in each checkpoint."""

    step: int = 0  # steps done
    best_step: int = -1
    best_mrr10: float = -1.0
    evaluations_without_gain: int = 0
    history: list[dict[str, float]] = field(default_factory=list)  # evaluations
    curve: list[list[float]] = field(default_factory=list)  # per step: loss, its parts, gradient norm
    busy_s: float = 0.0  # time in steps, of all runs up to the checkpoint
    wait_s: float = 0.0  # of it, time waited for data
    tokens: int = 0  # padded tokens of this worker's forward passes
    precision: str = ""  # of matrix products, as the workers chose it

    def over(self, course: Course) -> bool:
        """Whether all steps are done, or the dev figure stopped rising."""
        return self.step >= course.steps or self.evaluations_without_gain >= course.patience
