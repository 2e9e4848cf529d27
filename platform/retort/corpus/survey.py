"""The first pass over a corpus: every check, before anything is published, and what the second pass needs to know.

It keeps the set of ids in memory (to refuse duplicates and unknown ids), and nothing else that grows with the corpus except a
fingerprint per candidate where queries have to be made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from retort.corpus.labels import Labels
from retort.corpus.made import Sampler, candidate_query
from retort.corpus.passages import split_document
from retort.corpus.readers.rows import Document, QrelRow, QueryRow, Source
from retort.corpus.spool import Spool
from retort.errors import InputError
from retort.progress import QUIET, Progress

_REPORT_EVERY = 1000


@dataclass(frozen=True)
class Cutting:
    """How documents become passages; `enabled` False keeps each document whole."""

    enabled: bool
    max_words: int
    overlap_words: int

    def pieces(self, text: str) -> list[str]:
        """The texts of a document's passages. A text too short to exceed the budget is not counted."""
        shortest_word = 2 if text.isascii() else 1  # characters, with the space after it
        if not self.enabled or len(text) < self.max_words * shortest_word:
            return [text]
        return split_document(text, self.max_words, self.overlap_words) or [text]


@dataclass
class Survey:
    """What the first pass found."""

    documents: set[str] = field(default_factory=set)
    empty: set[str] = field(default_factory=set)
    pieces: dict[str, int] = field(default_factory=dict)
    """Documents that become several passages, and how many."""
    passages: int = 0
    languages: Counter[str] = field(default_factory=Counter)
    groups: dict[str, str] = field(default_factory=dict)
    """Judged documents whose doc_id is not their id."""
    sampler: Sampler | None = None

    def passage_ids(self, document_id: str) -> list[str]:
        """Ids of a document's passages: its own, or with ~1, ~2, ... where it was cut."""
        count = self.pieces.get(document_id, 1)
        return [document_id] if count == 1 else [f"{document_id}~{number}" for number in range(1, count + 1)]


def survey_corpus(
    source: Source, cutting: Cutting, labels: Labels, sampler: Sampler | None, spool: Spool, progress: Progress = QUIET
) -> Survey:
    """Read the whole corpus once, into `spool`. Queries that stand in the corpus' own rows are added to `labels`.

    InputError for a duplicate id, for a corpus without text, and for all that readers refuse.
    """
    survey = Survey(sampler=sampler)
    judged = labels.document_ids()
    passage_ids: set[str] = set()
    with progress.task("Checking the corpus") as task:
        for number, document in enumerate(source.documents(), start=1):
            if number % _REPORT_EVERY == 0:
                task.update(_REPORT_EVERY)
            if document.document_id in survey.documents or document.document_id in survey.empty:
                raise _duplicate(source, document, document.document_id)
            if not document.text and not document.title:
                survey.empty.add(document.document_id)
                continue
            survey.documents.add(document.document_id)
            pieces = passages_of(document, cutting)
            if len(pieces) > 1:
                survey.pieces[document.document_id] = len(pieces)
                passage_ids.update(survey.passage_ids(document.document_id))
            survey.passages += len(pieces)
            spool.add(document, pieces)
            survey.languages[document.lang] += 1
            if document.query:
                _add_pair(labels, document)
                survey.groups[document.document_id] = document.doc_id
            elif document.document_id in judged:
                survey.groups[document.document_id] = document.doc_id
            elif sampler is not None:
                query = candidate_query(document, pieces)
                if query is not None:
                    sampler.offer(document, *query, len(pieces))
    clashing = passage_ids & (survey.documents - survey.pieces.keys())
    if clashing:
        raise InputError(
            f"{source.place}: id {min(clashing)!r} is both a document's own and that of a piece of a longer document. Rename it, or set split_documents: never."
        )
    if not survey.documents:
        detail = f" ({len(survey.empty)} rows, all without text)" if survey.empty else ""
        raise InputError(
            f"{source.place} holds no passage with text{detail}. Expected at least one row with a text; files read: {', '.join(source.files[:5])}."
        )
    return survey


def passages_of(document: Document, cutting: Cutting) -> list[str]:
    """The texts of the document's passages; one that has only a title is its title."""
    return cutting.pieces(document.text) if document.text else [""]


def has_pairs(source: Source) -> bool:
    """Whether the corpus' rows bring queries with them (told by the first one)."""
    first: Iterator[Document] = source.documents()
    return bool(next((document.query for document in first), ""))


def _add_pair(labels: Labels, document: Document) -> None:
    labels.add_query(QueryRow(document.document_id, document.query, document.place, document.lang, document.split))
    labels.add_qrel(QrelRow(document.document_id, document.document_id, 1, document.place, document.split))


def _duplicate(source: Source, document: Document, document_id: str) -> InputError:
    first = next((other.place for other in source.documents() if other.document_id == document_id), document.place)
    hint = " If each file is one language, set files_are_languages." if first.file != document.place.file else ""
    return InputError(
        f"Passage id {document_id!r} is there twice: at {first} and at {document.place}. Give each passage an id of its own.{hint}"
    )
