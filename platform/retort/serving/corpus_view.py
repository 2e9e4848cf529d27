"""A corpus as search needs it: its texts, its fields for filters, and the words too common to mark.

Made once per corpus and process, and shared by all releases over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from retort.serving.filters import FieldIndex
from retort.serving.highlights import common_words

_SAMPLE = 500


class PassageTable(Protocol):
    """What search needs of a corpus; corpus.lookup.Passages is one."""

    def __len__(self) -> int:
        """How many passages."""

    def records_at(self, rows: Sequence[int], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The columns of schemas.PASSAGE (or these of them) as dictionaries; `fields` unpacked."""

    def ids_at(self, rows: Sequence[int]) -> list[str]:
        """Passage ids of these rows."""

    def column(self, name: str) -> Any:
        """One column of all passages, with `to_pylist()`."""


class CorpusView:
    """Passages with what is worked out of them once."""

    def __init__(self, passages: PassageTable) -> None:
        self.passages = passages
        self.fields = FieldIndex(lambda name: passages.column(name).to_pylist())
        self.common = common_words(_sample_texts(passages))

    def __len__(self) -> int:
        return len(self.passages)


def _sample_texts(passages: PassageTable) -> list[str]:
    """Passages spread evenly over the corpus."""
    step = max(1, len(passages) // _SAMPLE)
    return [str(record["text"]) for record in passages.records_at(range(0, len(passages), step))]
