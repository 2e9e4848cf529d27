"""Checked documents on local disk between the two passes of `ingest`, so that the source is read and parsed once.

An Arrow file in the system's temporary folder ($TMPDIR), about the size of the corpus' text packed with LZ4; gone when closed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Self

import pyarrow as pa

from retort.corpus.readers.rows import Document
from retort.store.files import storage_errors

_BATCH_DOCUMENTS = 1024
_BATCH_CHARACTERS = 32 << 20
_SCHEMA = pa.schema(
    [
        pa.field("document_id", pa.string()),
        pa.field("title", pa.string()),
        pa.field("lang", pa.string()),
        pa.field("section", pa.string()),
        pa.field("doc_id", pa.string()),
        pa.field("fields", pa.string()),
        pa.field("pieces", pa.list_(pa.string())),
    ]
)


class Checked(NamedTuple):
    """A document that passed the checks; `pieces` are the texts of its passages."""

    document_id: str
    title: str
    lang: str
    section: str
    doc_id: str
    fields: str
    pieces: list[str]


class Spool:
    """Use as a context manager: `add` all documents, then iterate."""

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="retort-ingest-"))
        self._path = Path(folder) / "documents.arrow"
        self._writer: pa.RecordBatchFileWriter | None = pa.ipc.new_file(
            str(self._path), _SCHEMA, options=pa.ipc.IpcWriteOptions(compression="lz4")
        )
        self._waiting: list[Checked] = []
        self._characters = 0
        return self

    def __exit__(self, *exc: object) -> None:
        if self._writer is not None and exc[0] is None:
            self._writer.close()
        self._writer = None
        self._stack.close()

    def add(self, document: Document, pieces: list[str]) -> None:
        """Append one document. StorageError when the temporary folder is full."""
        self._waiting.append(
            Checked(
                document.document_id,
                document.title,
                document.lang,
                document.section,
                document.doc_id,
                document.fields,
                pieces,
            )
        )
        self._characters += len(document.text) + len(document.fields)
        if len(self._waiting) >= _BATCH_DOCUMENTS or self._characters >= _BATCH_CHARACTERS:
            self._flush()

    def __iter__(self) -> Iterator[Checked]:
        """The documents in the order in which they came; nothing can be added any more."""
        if self._writer is not None:
            self._flush()
            with storage_errors(f"write {self._path}"):
                self._writer.close()
            self._writer = None
        with pa.OSFile(str(self._path)) as handle, pa.ipc.open_file(handle) as reader:
            for number in range(reader.num_record_batches):
                columns = reader.get_batch(number).to_pydict()
                yield from map(Checked, *(columns[name] for name in _SCHEMA.names))

    def _flush(self) -> None:
        assert self._writer is not None, "the spool is being read"
        if self._waiting:
            columns = zip(*self._waiting, strict=True)
            arrays = [pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=True)]
            with storage_errors(f"write {self._path}"):
                self._writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))
        self._waiting, self._characters = [], 0
