"""Which query encoder answers: pure functions of the release's routing, the request and one draw.

route(...)      by request, by rule, by weight, by default: in this order
sticky_draw     the same number in [0, 1) for the same key, other numbers for other releases' names
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import regex

from retort.corpus.languages import language_of
from retort.releases.routing import Routing, Rule

__all__ = ["By", "Route", "route", "sticky_draw"]

By = Literal["request", "rule", "weight", "default"]
_PATTERN_S = 0.01


@dataclass(frozen=True)
class Route:
    """The encoder chosen, and what chose it."""

    encoder: str
    by: By


def route(
    routing: Routing | None,
    default: str,
    *,
    asked: str | None,
    texts: Sequence[str],
    headers: Mapping[str, str],
    draw: float,
) -> Route:
    """Choose the encoder of a request.

    Args:
        routing: of the release; None: the default answers whoever names no other.
        default: the release's default encoder.
        asked: the encoder that the request names (whether the release has it is checked elsewhere).
        texts: the queries; a rule holds for several of them when it holds for each.
        headers: of the request, names in lower case.
        draw: in [0, 1): where it falls among the weights.
    """
    if asked is not None:
        return Route(asked, "request")
    if routing is None:
        return Route(default, "default")
    for rule in routing.rules:
        if _holds(rule, texts, headers):
            return Route(rule.encoder, "rule")
    if routing.weights:
        return Route(_weighted(routing.weights, draw), "weight")
    return Route(default, "default")


def sticky_draw(salt: str, key: str) -> float:
    """A number in [0, 1) that depends on nothing else."""
    digest = hashlib.blake2b(f"{salt}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _weighted(weights: Mapping[str, float], draw: float) -> str:
    # Sorted, so that a canary that grows takes requests from the others and gives none of its own away and back.
    names = [name for name in sorted(weights) if weights[name] > 0]
    place = draw * sum(weights.values())
    for name in names:
        place -= weights[name]
        if place < 0:
            return name
    return names[-1]


def _holds(rule: Rule, texts: Sequence[str], headers: Mapping[str, str]) -> bool:
    if any(headers.get(name.lower()) != value for name, value in rule.headers.items()):
        return False
    return all(_fits(rule, text) for text in texts)


def _fits(rule: Rule, text: str) -> bool:
    if rule.min_chars is not None and len(text) < rule.min_chars:
        return False
    if rule.max_chars is not None and len(text) > rule.max_chars:
        return False
    if rule.pattern is not None:
        try:
            # A pattern can take for ever on a text made for it; then it is taken not to be found.
            if regex.search(rule.pattern, text, timeout=_PATTERN_S) is None:
                return False
        except TimeoutError:
            return False
    return not rule.languages or language_of(text) in rule.languages


def warm(routing: Routing | None) -> None:
    """Load what the rules need, so that the first request does not wait for it."""
    if routing is not None and any(rule.languages for rule in routing.rules):
        language_of("warm up")
