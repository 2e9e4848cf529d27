"""Filters over corpus fields: `{field: value | [values] | {gte, lt}}`, all of which must pass.

Each field used is coded once (distinct values and a code per passage), so that a filter is decided on its distinct
values and then looked up: microseconds per query after the first. A field that holds a list passes if one of its
elements does. A number never equals a string.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retort.errors import ConfigError
from retort.serving.models import FilterValue, Range

COLUMNS = ("passage_id", "doc_id", "lang", "section", "title")
"""Fields that every corpus has; all others live in its `fields` column."""


@dataclass(frozen=True)
class _Coded:
    values: list[Any]
    codes: NDArray[np.int32]


class FieldIndex:
    """Decides filters for all passages of a corpus, in corpus order. Reads a field when it is first asked for."""

    def __init__(self, read_column: Callable[[str], Iterable[str]]) -> None:
        """`read_column(name)` gives one string per passage, for the names in COLUMNS and for `fields` (JSON objects)."""
        self._read = read_column
        self._coded: dict[str, _Coded] = {}
        self._further: list[dict[str, Any]] | None = None

    def mask(self, filters: Mapping[str, FilterValue]) -> NDArray[np.bool_]:
        """[passages] bool: which pass every filter; ConfigError names an unknown field."""
        result: NDArray[np.bool_] | None = None
        for field, wanted in filters.items():
            coded = self._field(field)
            passing = np.array([_passes(value, wanted) for value in coded.values] + [False])  # the last is for code -1
            mask = passing[coded.codes]
            result = mask if result is None else result & mask
        assert result is not None, "mask() without filters"
        return result

    def codes(self, field: str) -> NDArray[np.int32]:
        """[passages] int32: equal numbers for equal values; -1 without the field."""
        return self._field(field).codes

    def names(self) -> list[str]:
        """Every field that a filter may name."""
        return [*COLUMNS, *sorted({name for row in self._rows() for name in row})]

    def _field(self, name: str) -> _Coded:
        if name not in self._coded:
            if name in COLUMNS:
                self._coded[name] = _code(self._read(name))
            elif any(name in row for row in self._rows()):
                self._coded[name] = _code(row.get(name) for row in self._rows())
            else:
                raise ConfigError(
                    f"filters: this corpus has no field {name!r}. Its fields: {', '.join(self.names()[:50])}."
                )
        return self._coded[name]

    def _rows(self) -> list[dict[str, Any]]:
        if self._further is None:
            known: dict[str, dict[str, Any]] = {}  # most passages share their fields with others, or have none
            self._further = [
                known.setdefault(text, parse_fields(text)) if text not in known else known[text]
                for text in self._read("fields")
            ]
        return self._further


def parse_fields(text: str) -> dict[str, Any]:
    """The `fields` column of one passage."""
    value = json.loads(text) if text else {}
    return value if isinstance(value, dict) else {}


def _code(values: Iterable[Any]) -> _Coded:
    """Distinct values and codes; passages without the field have code -1."""
    distinct: dict[str, int] = {}
    kept: list[Any] = []
    codes: list[int] = []
    for value in values:
        if value is None:
            codes.append(-1)
            continue
        key = value if isinstance(value, str) else "\x00" + json.dumps(value)
        code = distinct.get(key)
        if code is None:
            code = distinct[key] = len(kept)
            kept.append(value)
        codes.append(code)
    return _Coded(kept, np.asarray(codes, dtype=np.int32))


def _passes(value: Any, wanted: FilterValue) -> bool:
    if isinstance(value, list):
        return any(_passes(item, wanted) for item in value)
    if isinstance(wanted, list):
        return any(_equal(value, item) for item in wanted)
    if isinstance(wanted, Range):
        return _within(value, wanted)
    return _equal(value, wanted)


def _equal(value: Any, wanted: Any) -> bool:
    # True == 1 in Python, and neither of a user's 1 and true should find the other.
    return (
        isinstance(value, bool) == isinstance(wanted, bool)
        and isinstance(value, str) == isinstance(wanted, str)
        and bool(value == wanted)
    )


def _within(value: Any, wanted: Range) -> bool:
    for bound in (wanted.gte, wanted.lt):
        if bound is not None and (
            isinstance(value, str) != isinstance(bound, str) or not isinstance(value, str | int | float)
        ):
            return False
    return (wanted.gte is None or value >= wanted.gte) and (wanted.lt is None or value < wanted.lt)
