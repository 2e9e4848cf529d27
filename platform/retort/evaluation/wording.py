"""How numbers are written for readers: in the terminal, on the page, in the verdict."""

from __future__ import annotations

from retort.pages.numbers import change, measure_title, score, size

__all__ = [
    "change", "lower_first", "measure_title", "milliseconds", "p_only", "p_value", "score", "size", "snippet", "system_title",
]  # fmt: skip

SYSTEM_TITLES = {"bm25": "BM25", "base": "Base encoder", "student": "Student", "teacher": "Teacher re-ranking"}
"""Systems in the order of every table, with their names for readers."""


def system_title(name: str) -> str:
    """`student` -> `Student`."""
    return SYSTEM_TITLES.get(name, name)


def p_value(p: float) -> str:
    """`p = 0.031`, `p < 0.001`."""
    text = p_only(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def p_only(p: float) -> str:
    """`0.031`, `< 0.001`: for a column whose heading says p."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def lower_first(title: str) -> str:
    """A title in the middle of a sentence: `Base encoder` -> `base encoder`; `BM25` stays."""
    return title if title[:2].isupper() else title[:1].lower() + title[1:]


def milliseconds(value: float | None) -> str:
    """Three significant digits at most: 0.42, 3.1, 47, 1,230."""
    if value is None:
        return "–"
    if value < 1:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def snippet(text: str, limit: int = 220) -> str:
    """The beginning of a text on one line, cut between words."""
    line = " ".join(text.split())
    if len(line) <= limit:
        return line
    cut = line.rfind(" ", limit * 2 // 3, limit)
    return line[: cut if cut > 0 else limit].rstrip(",;:. ") + " …"
