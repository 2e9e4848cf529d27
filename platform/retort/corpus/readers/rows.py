"""What every reader yields: documents, queries and qrels, each knowing the line it came from.

Source     the protocol that a format implements
Document   one row, or one section of a text file, before it is cut into passages
checked    the one place where a user's string is refused (NUL, lone surrogates)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from retort.errors import InputError

SPLITS = ("train", "dev", "test")
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "dev": "dev", "valid": "dev", "validation": "dev", "val": "dev",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
"""How users call the three splits."""


class Place(NamedTuple):
    """Where a row stands: `str()` gives file:line (for Parquet, the row's number)."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(slots=True)
class Document:
    """A text with an id of its own. `doc_id` groups documents (the page of a section); `query` is a query that came in the same row."""

    document_id: str
    text: str
    place: Place
    title: str = ""
    lang: str = ""
    section: str = ""
    doc_id: str = ""
    fields: str = "{}"
    query: str = ""
    split: str = ""
    title_is_heading: bool = False


@dataclass(slots=True)
class QueryRow:
    """A query; `split` is "" where its file does not say."""

    query_id: str
    text: str
    place: Place
    lang: str = ""
    split: str = ""
    origin: str = "user"
    fields: str = "{}"


@dataclass(slots=True)
class QrelRow:
    """A judged pair; `document_id` is as the user wrote it, before documents are cut into passages."""

    query_id: str
    document_id: str
    grade: int
    place: Place
    split: str = ""


@dataclass(frozen=True)
class Reading:
    """How to read: options that all readers share."""

    max_line_bytes: int = 5_000_000
    columns: dict[str, str] = field(default_factory=dict)
    lang: str = ""
    files_are_languages: bool = False


class Source(Protocol):
    """Something that holds a corpus, in one of the formats. Iterators read anew at each call, in the same order."""

    format: str
    place: str
    files: list[str]
    notes: list[str]

    def digest(self) -> str:
        """Hash of everything that the iterators depend on."""

    def documents(self) -> Iterator[Document]:
        """The documents, in the order of files and lines."""

    def queries(self) -> Iterator[QueryRow]:
        """The queries that have files of their own."""

    def qrels(self) -> Iterator[QrelRow]:
        """The judgements that have files of their own."""


def checked(value: str, place: Place, what: str) -> str:
    """The string itself; InputError if it cannot be stored or shown: a NUL character, a lone surrogate."""
    if "\0" in value:
        raise InputError(
            f"{place}: the {what} contains a NUL character (at character {value.index(chr(0)) + 1}). Remove it from the file."
        )
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{place}: the {what} contains a lone surrogate, \\u{ord(value[error.start]):04x} (at character {error.start + 1}), which is half "
                f"a character. Write the file again from its original text, or remove it."
            ) from None
    return value


def as_text(value: Any, place: Place, what: str) -> str:
    """A user's value as clean text: strings stripped, numbers written out, lists of strings one per line, null empty."""
    if isinstance(value, str):
        return checked(value, place, what).replace("\r\n", "\n").strip()
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return checked("\n".join(value), place, what).strip()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise InputError(f"{place}: the {what} is {type(value).__name__} {str(value)[:60]!r}; expected a string.")


def as_id(value: Any, place: Place, what: str) -> str:
    """A user's id: a string that is not blank, or a whole number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.strip():
        return checked(value, place, what)
    shown = "missing" if value is None else f"{value!r:.60}"
    raise InputError(f"{place}: the {what} is {shown}; expected a non-empty string or a whole number, one per row.")
