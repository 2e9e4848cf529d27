"""Which query encoder answers, as a release says it: rules, weights, shadows, and the guard that goes back by itself.

Only the settings live here; serving/routing.py decides by them.
"""

from __future__ import annotations

from typing import Annotated, Self

import regex
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

__all__ = ["Guard", "Routing", "Rule", "Shadow"]


def _compiles(pattern: str) -> str:
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return pattern


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(_Part):
    """Queries of a kind go to one encoder. All conditions that are given must hold; the first rule that holds decides."""

    encoder: str = Field(description="The encoder that answers.")
    languages: list[str] = Field(default_factory=list, description="The query's language is one of these (ISO 639-1).")
    min_chars: int | None = Field(default=None, ge=0, description="The query has at least so many characters.")
    max_chars: int | None = Field(default=None, ge=0, description="The query has at most so many characters.")
    pattern: Annotated[str, AfterValidator(_compiles)] | None = Field(
        default=None, description="This regular expression is found in the query."
    )
    headers: dict[str, str] = Field(
        default_factory=dict, description="Each of these request headers has exactly this value."
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not (self.languages or self.pattern or self.headers) and self.min_chars is None and self.max_chars is None:
            raise ValueError("a rule needs a condition: languages, min_chars, max_chars, pattern or headers")
        return self


class Shadow(_Part):
    """An encoder that answers a share of the queries off the request's path, to be compared with the one that answered."""

    encoder: str = Field(description="The encoder to try.")
    share: float = Field(default=0.1, gt=0, le=1, description="Share of the requests.")


class Guard(_Part):
    """When a release that was just promoted is taken back: looked at from `min_requests` on, until `watch_s` has passed."""

    max_error_share: float = Field(default=0.05, ge=0, le=1, description="More errors of ours than this share.")
    max_p95_ms: float | None = Field(
        default=None,
        gt=0,
        description="A p95 above this, in milliseconds: of plain single searches, without their wait in the queue.",
    )
    min_requests: int = Field(default=50, ge=1, description="Requests to see before judging.")
    watch_s: float = Field(default=600.0, gt=0, description="Seconds after the change in which it may be taken back.")


class Routing(_Part):
    """Which encoder answers a request that names none: the first rule that holds, else a share each, else the default."""

    rules: list[Rule] = Field(default_factory=list)
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="Encoder -> weight: shares of the requests that no rule decides."
    )
    sticky_header: str = Field(
        default="x-routing-key",
        description="Requests with the same value of this header get the same encoder by weight.",
    )
    shadows: list[Shadow] = Field(default_factory=list)
    guard: Guard | None = Field(default=None, description="Without it nothing is taken back by itself.")

    @model_validator(mode="after")
    def _weights_have_a_sum(self) -> Self:
        if self.weights and sum(self.weights.values()) <= 0:
            raise ValueError("weights are all 0: give at least one encoder a weight above 0, or leave weights out")
        return self

    @property
    def encoders(self) -> set[str]:
        """Every encoder that is named."""
        named = {rule.encoder for rule in self.rules} | {shadow.encoder for shadow in self.shadows}
        return named | set(self.weights)
