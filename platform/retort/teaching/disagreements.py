"""Where teacher and labels disagree most: what a person should read first. Pure functions.

missed_labels     unlabelled passages that the teacher puts far above everything labelled: likely false negatives
doubted_labels    labelled passages that the teacher puts far below: label errors, or what it cannot read
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retort.corpus.passages import passage_text
from retort.teaching.audit_pairs import Pairs

__all__ = ["disagreements"]

Floats = NDArray[np.float64]
SHOWN = 6
TEXT_CHARACTERS = 420


def disagreements(pairs: Pairs, scores: Floats, others: Sequence[Floats]) -> list[dict[str, Any]]:
    """Return the pairs of a teacher to read first, of each kind the widest margins, one per query.

    Args:
        pairs: the audited pairs.
        scores: [n] the teacher's.
        others: [n] those of the other teachers in the audit, to tell how many of them say the same.

    Returns:
        {"kind": "missed" | "doubted", "query", "query_id", "margin" in logits, "agreeing": other teachers that put the
        two passages in the same order, "others", "above", "below": {"passage_id", "title", "text", "score", "relevant"}}.
    """
    found = []
    for query in np.unique(pairs.query).tolist():
        rows = np.flatnonzero((pairs.query == query) & np.isfinite(scores))
        labelled, rest = rows[pairs.relevant[rows]], rows[~pairs.relevant[rows]]
        if not len(labelled) or not len(rest):
            continue
        best = int(rest[np.argmax(scores[rest])])
        top, last = int(labelled[np.argmax(scores[labelled])]), int(labelled[np.argmin(scores[labelled])])
        # Above every labelled passage: the label set may be incomplete. Below the typical unlabelled one: it may be wrong.
        found.append(("missed", float(scores[best] - scores[top]), best, top))
        typical = int(rest[np.argsort(scores[rest], kind="stable")[(len(rest) - 1) // 2]])
        found.append(("doubted", float(scores[typical] - scores[last]), typical, last))
    rows_shown = []
    for kind in ("missed", "doubted"):
        widest = sorted(
            (item for item in found if item[0] == kind and item[1] > 0), key=lambda item: (-item[1], item[2])
        )
        for _, margin, above, below in widest[:SHOWN]:
            agreeing = sum(bool(other[above] > other[below]) for other in others)
            rows_shown.append(
                {
                    "kind": kind,
                    "query_id": pairs.ids[above][0],
                    "query": pairs.queries.texts[int(pairs.query[above])],
                    "margin": margin,
                    "agreeing": agreeing,
                    "others": len(others),
                    "above": _passage(pairs, above, scores),
                    "below": _passage(pairs, below, scores),
                }
            )
    return rows_shown


def _passage(pairs: Pairs, row: int, scores: Floats) -> dict[str, Any]:
    passage = pairs.ids[row][1]
    (record,) = pairs.passages.records([passage], ["title", "text"])
    text = " ".join((record["text"] or passage_text(record["title"], record["text"])).split())
    return {
        "passage_id": passage,
        "title": record["title"],
        "text": text if len(text) <= TEXT_CHARACTERS else text[:TEXT_CHARACTERS].rsplit(" ", 1)[0] + " …",
        "score": float(scores[row]),
        "relevant": bool(pairs.relevant[row]),
    }
