"""Passages as the guard needs them: which language each is in, where its translations are, and its categories.

Languages are compared in lower case with hyphens (`pt_BR` is `pt-br`). The pivot language is matched by its first part
too: "en" takes "en-us". In a corpus of which no passage has a language, all are taken to be in the pivot language.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retort.corpus.lookup import Passages
from retort.errors import IncompatibleError, InputError
from retort.indexing.vectors import VectorStore
from retort.store import Artefact
from retort.store.schemas import PASSAGE

__all__ = ["Collection", "language_tag", "same_language"]

_COLUMNS = frozenset(PASSAGE.names) - {"text", "title", "fields", "content_hash"}


def language_tag(language: str) -> str:
    """`pt_BR` -> `pt-br`."""
    return language.strip().replace("_", "-").lower()


def same_language(language: str, pivot: str) -> bool:
    """Whether a tag is the pivot's, or a variety of it: en-us of en."""
    return language == pivot or ("-" not in pivot and language.split("-", 1)[0] == pivot)


class Collection:
    """The corpus of one embeddings artefact, with its vectors."""

    def __init__(self, embeddings: Artefact, pivot: str, parallel: str) -> None:
        """Open corpus and vectors.

        Raises:
            IncompatibleError: the vectors are not those of this corpus, row by row.
            NotFoundError: the corpus is not in the store of the embeddings.
        """
        self.embeddings = embeddings
        self._pivot, self._parallel = language_tag(pivot), parallel
        self.corpus = embeddings.input("corpus")
        self.vectors = VectorStore.open(embeddings)
        self.passages = Passages.open(self.corpus)
        if len(self.passages) != len(self.vectors):
            raise IncompatibleError(
                f"{embeddings} has {len(self.vectors)} vectors, its corpus {self.corpus} {len(self.passages)} passages. "
                "Embed the corpus again."
            )
        encoded = self.passages.column("lang").dictionary_encode().unify_dictionaries()
        self._raw: list[str] = encoded.chunk(0).dictionary.to_pylist() if encoded.num_chunks else []
        raw_codes = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks] or [np.zeros(0, np.int64)])
        tags = [language_tag(raw) for raw in self._raw]
        self.has_languages = any(tags)
        self.languages: list[str] = sorted({tag for tag in tags if tag})
        if not self.has_languages:
            tags = [self._pivot for _ in tags]
        self._tags: list[str] = sorted(set(tags))
        place = {tag: number for number, tag in enumerate(self._tags)}
        self._codes = np.array([place[tag] for tag in tags], dtype=np.int32)[raw_codes]  # [passages]
        self._raw_codes = raw_codes
        self._is_pivot = np.array([same_language(tag, self._pivot) for tag in self._tags], dtype=bool)

    @property
    def without_language(self) -> int:
        """How many passages say no language, in a corpus of which others do."""
        return len(self.rows_in("")) if self.has_languages else 0

    def rows_in(self, language: str) -> NDArray[np.int64]:
        """Rows of the passages in exactly this language."""
        if language not in self._tags:
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero(self._codes == self._tags.index(language))

    @cached_property
    def pivot_rows(self) -> NDArray[np.int64]:
        """Rows of the passages in the pivot language."""
        return np.flatnonzero(self._is_pivot[self._codes])

    def language_at(self, row: int) -> str:
        """The language of one passage; "" for a passage without one."""
        return self._tags[int(self._codes[row])]

    def in_pivot(self, row: int) -> bool:
        """Whether a passage is in the pivot language."""
        return bool(self._is_pivot[self._codes[row]])

    def parallels(self, row: int) -> list[int]:
        """Rows of the passage's translations into the pivot language; itself if it is in that language."""
        if self.in_pivot(row):
            return [row]
        if self._parallel != "id":
            known = self._pivot_rows_by_value  # refuses a field that is not there
            value = self._values(self._parallel, [row])[0]
            return known.get(value, []) if value is not None else []
        own = self._without_prefix(self.passages.ids_at([row])[0], self._raw[self._raw_codes[row]])
        ids = [own, *(f"{raw}/{own}" for raw in self._raw if raw and same_language(language_tag(raw), self._pivot))]
        there = [passage_id for passage_id in ids if passage_id in self.passages]
        return [int(found) for found in self.passages.rows(there) if self.in_pivot(int(found))]

    def group_of(self, row: int) -> str | None:
        """What a passage and its translations have in common where they are found by a field; None otherwise."""
        return None if self._parallel == "id" else self._values(self._parallel, [row])[0]

    def categories(self, level: str, rows: NDArray[np.int64]) -> list[str | None]:
        """The value of a level's field at each of these rows; None where it is absent or empty."""
        return self._values(level, rows.tolist())

    def known_fields(self) -> list[str]:
        """Names that a level or `parallel` may have here, from the first passage on."""
        first = self.passages.records_at([0], ["fields"])[0]["fields"] if len(self.passages) else {}
        return sorted({*first, "section"})

    @staticmethod
    def _without_prefix(passage_id: str, language: str) -> str:
        return passage_id.removeprefix(f"{language}/") if language else passage_id

    @cached_property
    def _pivot_rows_by_value(self) -> dict[str | None, list[int]]:
        found: dict[str | None, list[int]] = {}
        rows = self.pivot_rows.tolist()
        for row, value in zip(rows, self._values(self._parallel, rows), strict=True):
            if value is not None:
                found.setdefault(value, []).append(row)
        if not found and len(rows):
            raise InputError(
                f"parallel: {self._parallel!r} is no field of the {self._pivot} passages of {self.corpus}; its first has "
                f"{', '.join(self.known_fields())}. Name the field whose value translations share, or 'id'."
            )
        return found

    def _values(self, name: str, rows: Sequence[int]) -> list[str | None]:
        column = name if name in _COLUMNS else "fields"
        values = [record[column] for record in self.passages.records_at(rows, [column])]
        return [_as_text(value if column == name else value.get(name)) for value in values]


def _as_text(value: Any) -> str | None:
    """A category as text; equal values give equal texts."""
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
