"""Filters over corpus fields: `{field: value | [values] | {gte, lt}}`, all of which must pass.

Each field used is coded once: its distinct values, and a code per passage. A value wanted is then looked up, and only a
range looks at every distinct value; what passes is one look-up per passage. A field that holds a list passes if one of
its elements does. A number never equals a string.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    """One field: its distinct values by code, a code per passage (-1 without the field), and the codes of what can be wanted."""

    values: list[Any]
    codes: NDArray[np.int32]
    code_of: dict[Any, int]
    """Of each distinct value, by `_key`."""
    holding: dict[Any, list[int]]
    """Of the lists that hold an element, by its `_key`."""

    def passing(self, wanted: FilterValue) -> NDArray[np.bool_]:
        """[distinct values + 1] bool; the last is for code -1."""
        result = np.zeros(len(self.values) + 1, dtype=np.bool_)
        if isinstance(wanted, Range):
            result[:-1] = [_passes(value, wanted) for value in self.values]
            return result
        for item in wanted if isinstance(wanted, list) else [wanted]:
            key = _key(item)
            result[self.code_of.get(key, -1)] = True
            result[self.holding.get(key, [])] = True
        result[-1] = False
        return result


class FieldIndex:
    """Decides filters for all passages of a corpus, in corpus order. Reads a field when it is first asked for."""

    def __init__(self, read_column: Callable[[str], Iterable[str]]) -> None:
        """`read_column(name)` gives one string per passage, for the names in COLUMNS and for `fields` (JSON objects)."""
        self._read = read_column
        self._coded: dict[str, _Coded] = {}
        self._further: list[dict[str, Any]] | None = None
        self._names: frozenset[str] = frozenset()
        self._last: tuple[Mapping[str, FilterValue], NDArray[np.bool_]] | None = None

    def mask(self, filters: Mapping[str, FilterValue]) -> NDArray[np.bool_]:
        """[passages] bool, not to be written to: which pass every filter; ConfigError names an unknown field."""
        last = self._last
        # All queries of a request, and the stages of each, come with one and the same object.
        if last is not None and last[0] is filters:
            return last[1]
        result: NDArray[np.bool_] | None = None
        for name, wanted in filters.items():
            coded = self._field(name)
            mask = coded.passing(wanted)[coded.codes]
            result = mask if result is None else result & mask
        assert result is not None, "mask() without filters"
        self._last = (filters, result)
        return result

    def check_names(self, names: Iterable[str]) -> None:
        """ConfigError for an unknown field; reads nothing, and so lets all pass until `mask` has read the further fields."""
        if self._further is not None:
            for name in names:
                self._check_name(name)

    def codes(self, field: str) -> NDArray[np.int32]:
        """[passages] int32: equal numbers for equal values; -1 without the field."""
        return self._field(field).codes

    def names(self) -> list[str]:
        """Every field that a filter may name."""
        self._rows()
        return [*COLUMNS, *sorted(self._names)]

    def _field(self, name: str) -> _Coded:
        if name not in self._coded:
            if name in COLUMNS:
                self._coded[name] = _code(self._read(name))
            else:
                rows = self._rows()
                self._check_name(name)
                self._coded[name] = _code(row.get(name) for row in rows)
        return self._coded[name]

    def _check_name(self, name: str) -> None:
        if name not in COLUMNS and name not in self._names:
            raise ConfigError(
                f"filters: this corpus has no field {name!r}. Its fields: {', '.join(self.names()[:50])}."
            )

    def _rows(self) -> list[dict[str, Any]]:
        if self._further is None:
            known: dict[str, dict[str, Any]] = {}  # most passages share their fields with others, or have none
            further = [
                known.setdefault(text, parse_fields(text)) if text not in known else known[text]
                for text in self._read("fields")
            ]
            self._names = frozenset(name for row in known.values() for name in row)
            self._further = further
        return self._further


def parse_fields(text: str) -> dict[str, Any]:
    """The `fields` column of one passage."""
    value = json.loads(text) if text else {}
    return value if isinstance(value, dict) else {}


def _code(values: Iterable[Any]) -> _Coded:
    """Distinct values and codes; passages without the field have code -1."""
    code_of: dict[Any, int] = {}
    holding: dict[Any, list[int]] = {}
    kept: list[Any] = []
    codes: list[int] = []
    for value in values:
        if value is None:
            codes.append(-1)
            continue
        key = _key(value)
        code = code_of.get(key)
        if code is None:
            code = code_of[key] = len(kept)
            kept.append(value)
            for element in {_key(item) for item in _elements(value)}:
                holding.setdefault(element, []).append(code)
        codes.append(code)
    return _Coded(kept, np.asarray(codes, dtype=np.int32), code_of, holding)


def _key(value: Any) -> Any:
    """Equal for values that are equal to a filter, and for no others."""
    # True == 1 in Python, and neither of a user's 1 and true should find the other.
    if isinstance(value, bool):
        return (value,)
    return value if isinstance(value, str | int | float) else (json.dumps(value),)


def _elements(value: Any) -> Iterator[Any]:
    """What a list holds, and the lists in it; nothing for other values."""
    if isinstance(value, list):
        for item in value:
            if isinstance(item, list):
                yield from _elements(item)
            else:
                yield item


def _passes(value: Any, wanted: Range) -> bool:
    if isinstance(value, list):
        return any(_passes(item, wanted) for item in value)
    return _within(value, wanted)


def _within(value: Any, wanted: Range) -> bool:
    for bound in (wanted.gte, wanted.lt):
        if bound is not None and (
            isinstance(value, str) != isinstance(bound, str) or not isinstance(value, str | int | float)
        ):
            return False
    return (wanted.gte is None or value >= wanted.gte) and (wanted.lt is None or value < wanted.lt)
