"""Which format a path holds, found from the files' names.

In this order: a labelled folder (BEIR, MS MARCO), tables of rows (JSONL, CSV, TSV, Parquet), text files. Where tables and
text files lie side by side, the kind with more bytes is taken, and the other said to be left out.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from retort.corpus.readers.files import SourceFile, SourceFiles
from retort.corpus.readers.labelled import TableSource, labelled_source
from retort.corpus.readers.markup import EXTENSIONS
from retort.corpus.readers.roles import TABLES, role_of, without_doubles
from retort.corpus.readers.rows import Reading, Source
from retort.corpus.readers.textfiles import TextSource, is_text_file
from retort.errors import InputError

Format = Literal["auto", "beir", "msmarco", "jsonl", "csv", "parquet", "text"]
_EXTENSIONS: dict[str, tuple[str, ...]] = {
    "jsonl": (".jsonl", ".ndjson"),
    "csv": (".csv", ".tsv"),
    "parquet": (".parquet",),
}


def open_source(uri: str, format_name: Format = "auto", reading: Reading | None = None) -> Source:
    """The source at a path or URI. NotFoundError where nothing is there, InputError where nothing fits."""
    options = reading or Reading()
    files = SourceFiles(uri, options.max_line_bytes)
    if format_name == "text":
        return TextSource(files, options)
    if format_name in ("auto", "beir", "msmarco") and not files.is_file:
        labelled = labelled_source(files, options)
        if labelled is not None:
            if format_name not in ("auto", labelled.format):
                raise InputError(
                    f"{uri} looks like {labelled.format}, not {format_name} ({', '.join(labelled.files[:3])}). Set format to auto."
                )
            return labelled
    if format_name in ("beir", "msmarco"):
        expected = "corpus.jsonl[.gz]" if format_name == "beir" else "collection.tsv[.gz]"
        raise InputError(
            f"{uri} is not a {format_name} folder: there is no {expected}. It holds {_listing(files.files)}."
        )
    tables = _tables(files, options, format_name)
    texts = [file for file in files.files if is_text_file(file)]
    if tables is not None and (
        format_name != "auto" or _bytes(files, tables.files) >= sum(file.size_bytes for file in texts)
    ):
        return tables
    if texts and format_name == "auto":
        return TextSource(files, options)
    wanted = f"{format_name} files" if format_name != "auto" else "a corpus that Retort can read"
    raise InputError(
        f"{uri} holds no {wanted}. It holds {_listing(files.files)}. Expected a BEIR folder (corpus.jsonl, queries.jsonl, qrels/), MS MARCO "
        f"(collection.tsv, queries.train.tsv, qrels.train.tsv), tables ({', '.join(TABLES)}) or text files ({', '.join(EXTENSIONS)}); each may be .gz."
    )


def _tables(files: SourceFiles, reading: Reading, format_name: Format) -> TableSource | None:
    """The tables of the commonest kind as a corpus, those named as queries and qrels as such."""
    roles: dict[str, list[SourceFile]] = {"": [], "corpus": [], "queries": [], "qrels": []}
    for file in without_doubles(files.files):
        role = "" if files.is_file else role_of(file).role
        if role or file.extension in TABLES:
            roles[role].append(file)
    kinds = {extension: kind for kind, extensions in _EXTENSIONS.items() for extension in extensions}
    weights: Counter[str] = Counter()
    for file in roles[""]:
        weights[kinds[file.extension]] += max(1, file.size_bytes)
    if format_name != "auto":
        weights = Counter({format_name: weights[format_name]} if weights[format_name] else {})
    if not weights:
        return None
    kind = weights.most_common(1)[0][0]
    corpus = [file for file in roles[""] if kinds[file.extension] == kind]
    return TableSource(files, reading, kind, corpus, roles["queries"], roles["qrels"])


def _bytes(files: SourceFiles, paths: list[str]) -> int:
    wanted = set(paths)
    return sum(file.size_bytes for file in files.files if file.path in wanted)


def _listing(files: list[SourceFile]) -> str:
    names = [file.path for file in files]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
