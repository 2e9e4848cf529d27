"""CSV and TSV tables, plain or .gz.

read_csv    quoted, with a header; the delimiter is found from the header (comma, semicolon, tab or bar)
read_tsv    one row per line, split at tabs, no quoting (as MS MARCO writes them), with or without a header
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Any

from retort.corpus.readers.columns import ALIASES, QUERY_ALIASES
from retort.corpus.readers.files import SourceFiles
from retort.corpus.readers.jsonl import Records
from retort.corpus.readers.rows import Place
from retort.errors import InputError

_KNOWN = {alias for aliases in (*ALIASES.values(), *QUERY_ALIASES.values()) for alias in aliases}


def read_csv(files: SourceFiles, path: str, named: Sequence[str] = ()) -> Records:
    """(place, column -> value) of each row below the header; the place is the line where the row ends."""
    name = files.full(path)
    lines = files.lines(path, skip_blank=False)
    header_line = next(lines, (0, ""))[1]
    delimiter = max(",;\t|", key=header_line.count) if path.removesuffix(".gz").endswith(".csv") else "\t"
    csv.field_size_limit(max(csv.field_size_limit(), files.max_line_bytes))
    try:
        header = next(csv.reader([header_line], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise InputError(
            f"{name}:1: the header is not a CSV row: {error}. Expected column names such as id,title,text."
        ) from None
    _check_header(header, named, name)
    reader = csv.reader((line + "\n" for _, line in lines), delimiter=delimiter, strict=True)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            hint = (
                "a quote was opened and not closed"
                if "unexpected end" in str(error) or "limit" in str(error)
                else str(error)
            )
            raise InputError(
                f'{name}:{reader.line_num + 1}: not a CSV row: {hint}. Quote fields with " and double the quotes inside.'
            ) from None
        if row is None:
            return
        if not row or row == [""]:
            continue
        place = Place(name, reader.line_num + 1)
        yield place, _record(header, row, place)


def read_tsv(files: SourceFiles, path: str, layouts: Sequence[Sequence[str]], named: Sequence[str] = ()) -> Records:
    """(place, column -> value). Without a header, the number of cells chooses one of `layouts` (lists of column names)."""
    name = files.full(path)
    header: Sequence[str] = ()
    for number, line in files.lines(path):
        cells = line.split("\t")
        if not header:
            if _is_header(cells, named):
                header = cells
                _check_header(header, named, name)
                continue
            header = next((layout for layout in layouts if len(layout) == len(cells)), ())
            if not header:
                expected = " or ".join("<tab>".join(layout) for layout in layouts)
                raise InputError(
                    f"{name}:{number}: {len(cells)} cells between tabs; expected {expected}, or a first line with column names."
                )
        place = Place(name, number)
        yield place, _record(header, cells, place)


def _is_header(cells: Sequence[str], named: Sequence[str]) -> bool:
    return len(cells) > 1 and all(cell.strip().lower() in _KNOWN or cell in named for cell in cells[:2])


def _check_header(header: Sequence[str], named: Sequence[str], name: str) -> None:
    doubled = sorted({column for column in header if column and list(header).count(column) > 1})
    if doubled:
        raise InputError(f"{name}:1: the header names column {doubled[0]!r} twice. Rename one of them.")
    if not any(column.strip().lower() in _KNOWN or column in named for column in header):
        raise InputError(
            f"{name}:1: the first line has no column name that is known: {', '.join(header)[:200] or '(blank)'}. Expected a header such as id,title,text; "
            f"name other columns with columns.text and so on."
        )


def _record(header: Sequence[str], row: Sequence[str], place: Place) -> dict[str, Any]:
    if len(row) != len(header):
        raise InputError(
            f"{place}: {len(row)} cells, expected {len(header)} ({', '.join(header)}). Quote the text that contains the delimiter, or repair the row."
        )
    return dict(zip(header, row, strict=True))
