"""Small corpora written to disk."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def sentence(seed: int, words: int) -> str:
    """A sentence of so many words, another for each seed."""
    return f"Here{seed} " + " ".join(f"w{(seed * 7 + n) % 997}" for n in range(words - 1)) + "."


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_qrels(path: Path, rows: Iterable[tuple[str, str, int]], header: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["query-id\tcorpus-id\tscore"] if header else []
    path.write_text("\n".join([*lines, *("\t".join(map(str, row)) for row in rows)]) + "\n")
    return path


def beir(folder: Path, documents: int = 40, queries: Mapping[str, int] | None = None) -> Path:
    """A BEIR folder; query q of a split is relevant to document q, numbered on over the splits."""
    write_jsonl(
        folder / "corpus.jsonl",
        (
            {"_id": f"d{n}", "title": f"Title {n}", "text": f"The text of document number {n}."}
            for n in range(documents)
        ),
    )
    number = 0
    for split, count in (queries or {"train": 20, "dev": 5, "test": 5}).items():
        ids = range(number, number + count)
        write_jsonl(folder / f"queries.{split}.jsonl", ({"_id": f"q{n}", "text": f"question {n}"} for n in ids))
        write_qrels(folder / f"qrels.{split}.tsv", ((f"q{n}", f"d{n}", 1) for n in ids))
        number += count
    return folder
