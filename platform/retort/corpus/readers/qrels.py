"""Qrels: which document answers which query, in three columns or TREC's four, with or without a header."""

from __future__ import annotations

from collections.abc import Iterator

from retort.corpus.readers.files import SourceFiles
from retort.corpus.readers.rows import Place, QrelRow, checked
from retort.errors import InputError

_HEADER_WORDS = (
    "query",
    "qid",
    "corpus",
    "doc",
    "pid",
    "passage",
    "score",
    "grade",
    "label",
    "relevance",
    "rel",
    "topic",
    "iter",
)
_EXPECTED = "query id, passage id, grade, between tabs (or TREC's four: query id, 0, passage id, grade)"


def read_qrels(files: SourceFiles, path: str, split: str) -> Iterator[QrelRow]:
    """The judgements of a file; the grade is a whole number, 0 and below meaning not relevant."""
    name = files.full(path)
    for number, line in files.lines(path):
        place = Place(name, number)
        separator = "\t" if "\t" in line else ("," if path.removesuffix(".gz").endswith(".csv") else None)
        cells = [cell.strip() for cell in line.split(separator)] if separator else line.split()
        if number == 1 and _is_header(cells):
            continue
        if len(cells) not in (3, 4):
            raise InputError(f"{place}: {len(cells)} columns, expected {_EXPECTED}.")
        query_id, document_id, grade = cells[0], cells[-2], cells[-1]
        if not query_id or not document_id:
            raise InputError(f"{place}: an id is empty; expected {_EXPECTED}.")
        try:
            value = int(grade)
        except ValueError:
            raise InputError(
                f"{place}: the grade is {grade!r}, expected a whole number such as 0 or 1, as the last of: {_EXPECTED}."
            ) from None
        if not -(2**31) <= value < 2**31:
            raise InputError(
                f"{place}: the grade {grade} does not fit 32 bits; expected a small whole number such as 0 or 1."
            )
        yield QrelRow(
            checked(query_id, place, "query id"), checked(document_id, place, "passage id"), value, place, split
        )


def _is_header(cells: list[str]) -> bool:
    """Whether the last cell is a word that headers use; a first row with a broken grade is an error, not a header."""
    return len(cells) in (3, 4) and any(cells[-1].lower().startswith(word) for word in _HEADER_WORDS)
