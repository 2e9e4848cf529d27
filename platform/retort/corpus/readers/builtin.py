"""The built-in sample (docstrings of installed packages, `corpus/sample.py`) as a source like any other."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from functools import cached_property

from retort.corpus.readers.rows import Document, Place, QrelRow, QueryRow
from retort.corpus.sample import PACKAGES, SampleSplits, docstring_sample
from retort.errors import InputError
from retort.store.manifest import hash_json

_PLACE = Place("the built-in sample", 0)


class SampleSource:
    """Implements `rows.Source`; the sample is collected on first use (some seconds), its digest is known without that."""

    format = "sample"
    place = "the built-in sample"

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.files: list[str] = []
        self.notes: list[str] = []

    @cached_property
    def _sample(self) -> SampleSplits:
        sample = docstring_sample(self._limit)
        if not sample.passages:
            raise InputError(
                "The built-in sample is empty: none of the packages that it reads is installed. Run make install, or name a folder as source."
            )
        return sample

    def digest(self) -> str:
        """Hash of the limit and the installed versions, of which the sample is a pure function."""
        versions = {}
        for package in PACKAGES:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                versions[package] = ""
        return hash_json([self._limit, versions])

    def documents(self) -> Iterator[Document]:
        """One document per docstring body."""
        for passage in self._sample.passages:
            yield Document(
                passage.passage_id,
                passage.text,
                _PLACE,
                title=passage.title,
                lang=passage.lang,
                section=passage.section,
                doc_id=passage.doc_id,
            )

    def queries(self) -> Iterator[QueryRow]:
        """One query per docstring summary."""
        for split, part in self._sample.splits.items():
            for query in part.queries:
                yield QueryRow(query.query_id, query.text, _PLACE, lang=query.lang, split=split, origin=query.origin)

    def qrels(self) -> Iterator[QrelRow]:
        """Each summary with its own body."""
        for split, part in self._sample.splits.items():
            for query_id, grades in part.qrels.items():
                for passage_id, grade in grades.items():
                    yield QrelRow(query_id, passage_id, grade, _PLACE, split)
