"""What the language guard watches and how strict it is; the field `guard` of the tuning config."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["GuardSettings"]


class GuardSettings(BaseModel):
    """Which languages and slices are watched, and what counts as a loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pivot: str = Field(
        "en",
        min_length=1,
        description="Language of the passages that queries of every language search across languages; 'en' means 'en-us' too.",
    )
    parallel: str = Field(
        "id",
        min_length=1,
        description="How a passage's translations are found: 'id' (equal after the '<lang>/' prefix), or a corpus field with equal values.",
    )
    levels: tuple[str, ...] = Field(
        (),
        description="Hierarchical corpus fields, broad to narrow, such as module and folder: candidates of one category only.",
    )
    margin: float = Field(0.015, gt=0, lt=1, description="Largest loss of MRR@10 that is tolerated in a language.")
    level: float = Field(
        0.95, gt=0.5, lt=1, description="Probability that no language and no look is called kept wrongly."
    )
    least_queries: int = Field(150, ge=2, description="Pooled queries below which a language is named as unguarded.")
    least_recall: float = Field(
        0.2, ge=0, le=1, description="Recall@10 of the base below which a language is named as not measurable."
    )
    max_passages: int = Field(
        100_000,
        ge=100,
        description="Passages that queries search, per set and language; of more, all relevant ones and a random sample.",
    )
    looks: int = Field(
        4, ge=1, description="How often one training run is looked at, evenly spaced, the last at its end."
    )
