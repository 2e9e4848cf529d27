"""JSON lines: one JSON object per line, plain or .gz."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from retort.corpus.readers.files import SourceFiles
from retort.corpus.readers.rows import Place
from retort.errors import InputError

Records = Iterator[tuple[Place, dict[str, Any]]]


def read_jsonl(files: SourceFiles, path: str) -> Records:
    """(place, object) of each line; InputError for a line that is not a JSON object."""
    name = files.full(path)
    for number, line in files.lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            detail = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise InputError(
                f"{name}:{number}: not JSON ({detail}): {line[:80]!r}. Expected one JSON object per line."
            ) from None
        if not isinstance(record, dict):
            raise InputError(
                f'{name}:{number}: a JSON {type(record).__name__} where an object was expected, such as {{"_id": ..., "text": ...}}.'
            )
        yield Place(name, number), record
