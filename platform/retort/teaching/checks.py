"""What can be wrong with candidates, looked for before any work is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Protocol

import pyarrow.compute as pc

from retort.errors import InputError
from retort.store import Artefact
from retort.teaching.quarantine import isolate

__all__ = ["KnownQueries", "KnownTexts", "check_candidates"]

TEXTS_AT_ONCE = 8192


class KnownTexts(Protocol):
    """Ids and their texts, as `corpus.lookup.Passages` has them."""

    @property
    def ids(self) -> Sequence[str]:
        """Passage ids."""

    def texts(self, ids: Sequence[str]) -> list[str]:
        """Return one text per id, in order."""


class KnownQueries(Protocol):
    """Ids and texts side by side, as `corpus.queries.QuerySet` has them."""

    @property
    def ids(self) -> Sequence[str]:
        """Query ids."""

    @property
    def texts(self) -> Sequence[str]:
        """Their texts, in the same order."""

    @property
    def qrels(self) -> Mapping[str, Mapping[str, int]]:
        """Grades by query id and passage id."""


def check_candidates(candidates: Artefact, queries: KnownQueries, passages: KnownTexts) -> None:
    """Look at every id that the candidates name.

    Raises:
        InputError: there are no candidates; they name queries or passages that are not there, or whose text is empty.
    """
    named_queries: set[str] = set()
    named_passages: set[str] = set()
    for part in candidates.parts():
        table = candidates.part(part, columns=["query_id", "passage_id"])
        named_queries.update(pc.unique(table.column("query_id")).to_pylist())
        named_passages.update(pc.unique(table.column("passage_id")).to_pylist())
    if not named_queries:
        raise InputError(f"{candidates} holds no pairs; expected at least one. Look at the mining step's config.")
    _refuse(named_queries - set(queries.ids), f"{candidates} names {{}} that the queries do not have", "queries")
    _refuse(named_passages - set(passages.ids), f"{candidates} names {{}} that the corpus does not have", "passages")
    empty = {query for query, text in zip(queries.ids, queries.texts, strict=True) if not text.strip()}
    _refuse(empty & named_queries, f"{candidates} names {{}} with an empty text", "queries")
    _refuse(_empty_passages(named_passages, passages), f"{candidates} names {{}} with an empty text", "passages")


def _empty_passages(ids: set[str], passages: KnownTexts) -> set[str]:
    """Return the ids whose text is blank; a text that cannot be read is left to the quarantine."""
    empty: set[str] = set()
    rest = iter(sorted(ids))
    while some := list(islice(rest, TEXTS_AT_ONCE)):
        texts, _ = isolate(passages.texts, some)
        empty.update(id_ for id_, text in zip(some, texts, strict=True) if text is not None and not text.strip())
    return empty


def _refuse(found: Iterable[str], what: str, things: str) -> None:
    """Raise InputError with the first few of `found`, if there are any."""
    names = sorted(found)
    if names:
        shown = ", ".join(repr(name) for name in names[:3])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise InputError(
            f"{what.format(f'{len(names)} {things}')}: {shown}{more}. Make the candidates again from these artefacts, or mend the texts."
        )
