"""Folders whose files have roles: BEIR's layout and MS MARCO's, whatever the tables' format.

    corpus.jsonl                + queries.jsonl | queries.<split>.jsonl   + qrels/<split>.tsv | qrels.<split>.tsv   (BEIR)
    collection.tsv (id, text)   + queries.<split>.tsv (id, text)          + qrels.<split>.tsv                       (MS MARCO)

All files may be .gz; corpus and queries may be .jsonl, .csv, .tsv or .parquet. Which file is what: roles.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from retort.corpus.readers.columns import DocumentColumns, QueryColumns
from retort.corpus.readers.delimited import read_csv, read_tsv
from retort.corpus.readers.files import SourceFile, SourceFiles
from retort.corpus.readers.jsonl import Records, read_jsonl
from retort.corpus.readers.parquet import left_out_columns, read_parquet
from retort.corpus.readers.qrels import read_qrels
from retort.corpus.readers.roles import role_of, without_doubles
from retort.corpus.readers.rows import Document, QrelRow, QueryRow, Reading
from retort.errors import InputError
from retort.store.manifest import hash_json

CORPUS_LAYOUTS = (("id", "text"), ("id", "title", "text"), ("id", "url", "title", "text"))
QUERY_LAYOUTS = (("id", "text"),)


def records(
    files: SourceFiles, path: str, layouts: tuple[tuple[str, ...], ...], named: tuple[str, ...] = ()
) -> Records:
    """The rows of a table, by its extension."""
    extension = SourceFile(path, 0).extension
    if extension == ".parquet":
        return read_parquet(files, path)
    if extension == ".csv":
        return read_csv(files, path, named)
    if extension == ".tsv":
        return read_tsv(files, path, layouts, named)
    return read_jsonl(files, path)


class TableSource:
    """A corpus of one or more tables, with files of queries and qrels where there are any. Implements `rows.Source`."""

    def __init__(
        self,
        files: SourceFiles,
        reading: Reading,
        format_name: str,
        corpus: list[SourceFile],
        queries: list[SourceFile],
        qrels: list[SourceFile],
    ) -> None:
        """Raises InputError if one of the files is empty."""
        self.format = format_name
        self.place = files.uri
        self._files = files
        self._reading = reading
        self._corpus = [file.path for file in corpus]
        self._queries = [(file.path, role_of(file).split) for file in queries]
        self._qrels = [(file.path, role_of(file).split) for file in qrels]
        chosen = [*corpus, *queries, *qrels]
        self.files = [file.path for file in chosen]
        for file in chosen:
            if file.size_bytes == 0:
                raise InputError(
                    f"{files.full(file.path)} is empty. Expected {'judgements' if file in qrels else 'one row per line'}; copy it again, or remove it."
                )
        ignored = [file.path for file in files.files if file.path not in self.files]
        self.notes = (
            [f"not read: {', '.join(ignored[:5])}{f' and {len(ignored) - 5} more' if len(ignored) > 5 else ''}"]
            if ignored
            else []
        )
        if len(qrels) > 0 and not queries:
            raise InputError(
                f"{files.uri} has qrels ({qrels[0].path}) but no queries. Expected queries.jsonl or queries.<split>.jsonl beside them."
            )
        for path in self._corpus:
            left_out = left_out_columns(files, path) if path.endswith(".parquet") else []
            if left_out:
                self.notes.append(f"{path}: left out columns {', '.join(left_out)} (bytes or lists of numbers)")

    def digest(self) -> str:
        """Hash of the names and bytes of all files read."""
        return hash_json([[path, self._files.sha256(path)] for path in self.files])

    def documents(self) -> Iterator[Document]:
        """Rows of the corpus tables; an id column that is missing everywhere is replaced by file name and line."""
        columns = DocumentColumns(self._reading)
        named = tuple(name for name in self._reading.columns.values() if name)
        for path in self._corpus:
            stem = SourceFile(path, 0).stem
            lang = stem.rsplit(".", 1)[-1] if self._reading.files_are_languages else ""
            for place, record in records(self._files, path, CORPUS_LAYOUTS, named):
                document = columns.document(record, place, f"{stem}-{place.line}", lang)
                if lang:  # doc_id stays as it is: translations of one document belong to one split
                    document.document_id = f"{lang}/{document.document_id}"
                yield document

    def queries(self) -> Iterator[QueryRow]:
        """Rows of the queries tables."""
        for path, split in self._queries:
            columns = QueryColumns(self._reading)
            for place, record in records(self._files, path, QUERY_LAYOUTS):
                yield columns.query(record, place, split)

    def qrels(self) -> Iterator[QrelRow]:
        """Rows of the qrels files."""
        for path, split in self._qrels:
            yield from read_qrels(self._files, path, split)


def labelled_source(files: SourceFiles, reading: Reading) -> TableSource | None:
    """The folder as BEIR or MS MARCO, or None if none of its files is a corpus."""
    by_role: dict[str, list[SourceFile]] = {"corpus": [], "queries": [], "qrels": []}
    for file in without_doubles(files.files):
        role = role_of(file).role
        if role:
            by_role[role].append(file)
    if not by_role["corpus"]:
        return None
    name = "msmarco" if by_role["corpus"][0].stem.startswith("collection") else "beir"
    return TableSource(files, reading, name, by_role["corpus"], by_role["queries"], by_role["qrels"])
