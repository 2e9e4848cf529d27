"""Setting poisoned rows apart: work on many items at once, and find the few that break it by halving.

A row is poisoned when its text cannot be encoded (lone surrogates, bytes that are not UTF-8) or the teacher's answer is
not a number. It goes to `quarantine-NNNNN.parquet` beside its part, with the reason; the other rows are judged as ever.
Errors that say something about the machine (memory, a device, a store) are no row's fault and are raised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import pyarrow as pa

from retort.models.tokenising import UnencodableTextError

__all__ = ["POISON", "QUARANTINE", "isolate", "quarantine_name"]

QUARANTINE = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("passage_id", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)

POISON = (UnencodableTextError, UnicodeError, TypeError, ValueError, LookupError, OverflowError)
"""What tokenizers and models raise over a text, as far as it was seen; pyarrow's errors are ValueErrors."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def quarantine_name(part: str) -> str:
    """Return `quarantine-00007.parquet` for `part-00007.parquet`."""
    return part.replace("part-", "quarantine-", 1)


def isolate(
    work: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]
) -> tuple[list[Result | None], dict[int, str]]:
    """Return the result of each item (None for a poisoned one) and the reason for each poisoned position.

    `work` is called on all items; where that raises, on halves, down to single items: one poisoned item among n costs
    about 2 log2(n) calls.
    """
    results: list[Result | None] = [None] * len(items)
    reasons: dict[int, str] = {}
    pending = [(0, len(items))] if items else []
    while pending:
        start, stop = pending.pop()
        try:
            results[start:stop] = list(work(items[start:stop]))
        except POISON as error:
            if stop - start == 1:
                first_line = str(error).splitlines()[0] if str(error) else "no message"
                reasons[start] = f"{type(error).__name__}: {first_line[:200]}"
            else:
                middle = (start + stop) // 2
                pending += [(middle, stop), (start, middle)]
    return results, reasons
