"""How the audit's numbers are written for readers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retort.pages.numbers import change

__all__ = ["change", "figure", "limit", "slice_title", "span"]

_SLICE_TITLES = {
    "length": "Passage length",
    "language": "Language",
    "section": "Section",
    "position": "Where the answer lies",
}


def slice_title(by: str) -> str:
    """`length` -> `Passage length`."""
    return _SLICE_TITLES.get(by, by)


def figure(value: float | None) -> str:
    """Three decimals, a true minus."""
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def span(interval: Mapping[str, Any] | None) -> str:
    """`0.612 to 0.671`."""
    return "" if interval is None else f"{figure(interval['low'])} to {figure(interval['high'])}"


def limit(check: Mapping[str, Any]) -> str:
    """`at least 0.700`."""
    number = f"{check['limit']:.0f}" if check["name"] == "least_queries" else figure(check["limit"])
    return f"{'at least' if check['at_least'] else 'at most'} {number}"
