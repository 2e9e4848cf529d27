"""What each file of a labelled folder is for, told from its name: corpus, queries or qrels, and of which split.

corpus.jsonl.gz, collection.tsv, corpus/part-0.parquet          corpus
queries.jsonl, queries.train.jsonl.gz, queries.dev.small.tsv    queries
qrels.test.tsv, qrels/test.tsv, qrels.train.tsv.gz              qrels
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import NamedTuple

from retort.corpus.readers.files import SourceFile
from retort.corpus.readers.rows import SPLIT_NAMES

ROLES = {
    "corpus": "corpus", "collection": "corpus", "passages": "corpus", "documents": "corpus",
    "queries": "queries", "query": "queries", "topics": "queries",
    "qrels": "qrels", "qrel": "qrels",
}  # fmt: skip
TABLES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


class Role(NamedTuple):
    """`role` is "" for a file that is none of them; `split` is "" where the name does not say."""

    role: str
    split: str


def role_of(file: SourceFile) -> Role:
    """The role and split that a file's name tells. Only files at the top, or in a folder named after a role, have one."""
    path = PurePosixPath(file.path)
    words = [word for word in re.split(r"[._-]+", file.stem.lower()) if word]
    if file.extension not in (*TABLES, ".txt", ".trec", ".qrels") or not words:
        return Role("", "")
    role = ROLES.get(words[0], "")
    if len(path.parts) == 2:
        role = ROLES.get(path.parts[0].lower(), "")
    elif len(path.parts) > 2:
        role = ""
    if role != "qrels" and file.extension not in TABLES:
        role = ""
    if (
        role == "corpus"
        and len(path.parts) == 1
        and len(words) > 1
        and not all(word.isdigit() or word == "of" for word in words[1:])
    ):
        role = (
            ""  # corpus.de.jsonl beside corpus.jsonl is another corpus, corpus-00001-of-00003.jsonl a part of this one
        )
    split = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "")
    return Role(role, split if role in ("queries", "qrels") else "")


def without_doubles(files: list[SourceFile]) -> list[SourceFile]:
    """Leave out the packed copy where a file is there both plain and .gz, and the full set where its `.small` one is there."""
    paths = {file.path for file in files}
    kept = [file for file in files if not (file.path.endswith(".gz") and file.path.removesuffix(".gz") in paths)]
    small = {file.path.replace(".small", "") for file in kept if ".small." in file.path}
    return [file for file in kept if file.path not in small]
