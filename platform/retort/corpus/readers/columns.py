"""Which column of a user's table is what: known names, or the names given in the config.

    ALIASES            the names known for each part of a document and of a query, tried in order, case aside
    DocumentColumns    a record (column -> value) as a Document
    QueryColumns       a record as a QueryRow

Columns that are no part of a document go into its `fields` as JSON, so that they can be filtered on later.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from retort.corpus.readers.rows import SPLIT_NAMES, Document, Place, QueryRow, Reading, as_id, as_text
from retort.errors import InputError

ALIASES: dict[str, tuple[str, ...]] = {
    "id": ("_id", "id", "passage_id", "pid", "docid", "docno", "document_id", "doc_id"),
    "text": ("text", "contents", "content", "body", "passage", "passage_text", "document", "abstract", "answer"),
    "title": ("title", "headline", "subject", "name"),
    "lang": ("lang", "language", "locale"),
    "section": ("section", "category", "topic"),
    "doc_id": ("doc_id", "document_id", "page", "url"),
    "query": ("query", "question"),
    "split": ("split",),
}
QUERY_ALIASES: dict[str, tuple[str, ...]] = {
    "id": ("_id", "id", "query_id", "query-id", "qid"),
    "text": ("text", "query", "question", "contents", "title"),
    "lang": ("lang", "language", "locale"),
    "split": ("split",),
}
_STRICT_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=str)


class _Columns:
    """Finds each part's column for the set of columns that a record has; remembers it, since records of a file are alike."""

    aliases: Mapping[str, tuple[str, ...]]
    what: str

    def __init__(self, reading: Reading, given: Mapping[str, str]) -> None:
        self._reading = reading
        self._given = given
        self._known: dict[tuple[str, ...], dict[str, str]] = {}

    def find(self, names: tuple[str, ...], place: Place) -> dict[str, str]:
        """Part -> column name; InputError where there is no text, or a column named in the config is not there."""
        found = self._known.get(names)
        if found is None:
            found = self._known[names] = self._resolve(names, place)
        return found

    def _resolve(self, names: tuple[str, ...], place: Place) -> dict[str, str]:
        by_lower = {name.strip().lower(): name for name in reversed(names)}
        found: dict[str, str] = {}
        for part, aliases in self.aliases.items():
            given = self._given.get(part)
            if given:
                if given in names:
                    found[part] = given
                elif part in ("id", "text"):
                    raise InputError(
                        f"{place}: there is no column {given!r} (columns.{part}). The row has: {', '.join(names)}."
                    )
            elif given is None:
                taken = set(found.values()) | {name for name in self._given.values() if name}
                match = next(
                    (by_lower[alias] for alias in aliases if alias in by_lower and by_lower[alias] not in taken), None
                )
                if match is not None:
                    found[part] = match
        if "text" not in found:
            raise InputError(
                f"{place}: no column holds the {self.what} text. The row has: {', '.join(names) or 'no columns'}; expected one of "
                f"{', '.join(self.aliases['text'])}. Rename the column, or name it with columns.text."
            )
        return found


class DocumentColumns(_Columns):
    """Records as documents. `reading.columns` names columns that have other names; an empty name says that there is none."""

    aliases = ALIASES
    what = "passage"

    def __init__(self, reading: Reading) -> None:
        super().__init__(reading, reading.columns)

    def document(self, record: Mapping[str, Any], place: Place, fallback_id: str, lang: str = "") -> Document:
        """The record as a Document; `fallback_id` where the table has no id column at all."""
        names = tuple(record)
        found = self.find(names, place)
        get = record.get
        document_id = (
            as_id(get(found["id"]), place, f"passage id (column {found['id']!r})") if "id" in found else fallback_id
        )
        used = set(found.values())
        split = as_text(get(found["split"]), place, "split") if "split" in found else ""
        if split and split.lower() not in SPLIT_NAMES:
            raise InputError(
                f"{place}: split is {split!r}; expected one of {', '.join(SPLIT_NAMES)}. If the column means something else: columns.split=''."
            )
        given_doc_id = get(found["doc_id"]) if "doc_id" in found else None
        return Document(
            document_id=document_id,
            text=as_text(get(found["text"]), place, "text"),
            place=place,
            title=as_text(get(found["title"]), place, "title") if "title" in found else "",
            lang=(as_text(get(found["lang"]), place, "lang") if "lang" in found else "") or lang or self._reading.lang,
            section=as_text(get(found["section"]), place, "section") if "section" in found else "",
            doc_id=as_id(given_doc_id, place, "doc_id") if given_doc_id not in (None, "") else document_id,
            fields=fields_json({name: value for name, value in record.items() if name not in used}, place)
            if len(used) < len(names)
            else "{}",
            query=as_text(get(found["query"]), place, "query") if "query" in found else "",
            split=SPLIT_NAMES[split.lower()] if split else "",
        )


class QueryColumns(_Columns):
    """Records of a queries file."""

    aliases = QUERY_ALIASES
    what = "query"

    def __init__(self, reading: Reading) -> None:
        super().__init__(reading, {})

    def query(self, record: Mapping[str, Any], place: Place, split: str) -> QueryRow:
        """The record as a QueryRow; InputError for a query without an id or without text."""
        found = self.find(tuple(record), place)
        if "id" not in found:
            raise InputError(
                f"{place}: no column holds the query id. The row has: {', '.join(record)}; expected one of {', '.join(QUERY_ALIASES['id'])}."
            )
        query_id = as_id(record.get(found["id"]), place, "query id")
        text = as_text(record.get(found["text"]), place, "query text")
        if not text:
            raise InputError(f"{place}: query {query_id!r} has no text. Give it a text, or remove it and its qrels.")
        own_split = (
            SPLIT_NAMES.get(as_text(record.get(found["split"]), place, "split").lower(), "") if "split" in found else ""
        )
        rest = {name: value for name, value in record.items() if name not in found.values()}
        lang = as_text(record.get(found["lang"]), place, "lang") if "lang" in found else ""
        return QueryRow(
            query_id, text, place, lang or self._reading.lang, own_split or split, fields=fields_json(rest, place)
        )


def fields_json(values: Mapping[str, Any], place: Place) -> str:
    """The further columns as one JSON object; empty values (null, "", {}, NaN) are left out."""
    kept = {name: value for name, value in values.items() if value is not None and value != "" and value != {}}
    if not kept:
        return "{}"
    try:
        text = _STRICT_JSON.encode(kept)
    except ValueError:  # NaN, as data frames write missing numbers; JSON has no such value
        text = json.dumps(_without_nan(kept), ensure_ascii=False, default=str)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{place}: a further column contains a lone surrogate, \\u{ord(text[error.start]):04x}. Write the file again from its original text."
            ) from None
    return text


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return value
