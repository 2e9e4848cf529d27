"""How relevance was judged, in one sentence that every table carries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

_MADE_FROM: Final = {
    "title": "titles",
    "heading": "headings",
    "sentence": "first sentences",
    "docstring": "summary lines of docstrings",
}
_CAUTION: Final = (
    "Another passage may answer a made query just as well and counts as wrong, for every system alike: trust the differences "
    "between systems more than the figures themselves, and bring queries with judged passages where you can."
)


def describe_relevance(origins: Iterable[str]) -> dict[str, Any]:
    """`{"source": "user" | "made" | "mixed", "text": sentence without full stop, "caution": sentence | "", "origins":
    counts}`.

    Args:
        origins: The origin of each query that was measured (schemas.QUERY).
    """
    counts = Counter(origins)
    made = {origin: count for origin, count in counts.items() if origin != "user"}
    names = [
        _MADE_FROM.get(origin, f"{origin}s") for origin in sorted(made, key=lambda origin: (-made[origin], origin))
    ]
    from_what = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    rule = "the only passage counted as relevant is the one it was taken from"
    if not made:
        source, text, caution = "user", "the queries and relevant passages that came with the data (qrels)", ""
    elif not counts["user"]:
        source, text, caution = "made", f"queries made from {from_what}; {rule}", _CAUTION
    else:
        text = (
            f"{counts['user']:,} queries with the relevant passages that came with the data (qrels), and "
            f"{sum(made.values()):,} queries made from {from_what}, for each of which {rule}"
        )
        source, caution = "mixed", _CAUTION
    return {"source": source, "text": text, "caution": caution, "origins": dict(sorted(counts.items()))}
