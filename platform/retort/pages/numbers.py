"""How figures are written for readers, in the terminal and on pages."""

from __future__ import annotations

import math

__all__ = ["change", "measure_title", "score", "size"]


def measure_title(name: str) -> str:
    """`ndcg@10` -> `nDCG@10`."""
    family, _, cutoff = name.partition("@")
    return {"mrr": "MRR", "ndcg": "nDCG", "recall": "Recall", "success": "Success"}.get(family, family) + f"@{cutoff}"


def score(value: float | None) -> str:
    """A measure in [0, 1] with three decimals."""
    return "–" if value is None else f"{value:.3f}"


def change(value: float) -> str:
    """A difference with its sign; a true minus, and no sign on zero."""
    text = f"{abs(value):.3f}"
    if float(text) == 0:
        return text
    return f"+{text}" if value > 0 else f"−{text}"


def size(size_bytes: int | None) -> str:
    """`12.3 MB`; decimal units, as disks are sold."""
    if size_bytes is None:
        return "–"
    if size_bytes < 1000:
        return f"{size_bytes} B"
    step = min(4, int(math.log10(size_bytes) // 3))
    return f"{size_bytes / 1000**step:.1f} {('B', 'kB', 'MB', 'GB', 'TB')[step]}"
