"""The real data of `../shared/data`: Debian's collection as artefacts that all benchmarks share, and XQuAD in a layout that
`retort ingest` reads; nothing of it is kept in the project.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harness import SHARED, need

from retort.progress import QUIET, Progress
from retort.store import Artefact

DEBIAN_LICENCES = ["various free licences of Debian packages"]
XQUAD_LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh")


def debian(store: str, progress: Progress = QUIET) -> dict[str, Artefact]:
    """Debian's package descriptions whole: "corpus", and the queries of "train", "dev" and "test" (synopses)."""
    from retort.corpus.ingest import IngestConfig, ingest

    source = str(need(SHARED / "debian"))
    return ingest(IngestConfig(source=source, name="debian", licences=DEBIAN_LICENCES, store=store), progress)


def debian_vectors(store: str, progress: Progress = QUIET) -> Artefact:
    """The corpus's vectors by MiniLM: many minutes of two cores, once per store."""
    from retort.indexing.embed import EmbedConfig, embed

    corpus = debian(store, progress)["corpus"]
    return embed(EmbedConfig(corpus=corpus.uri, encoder="minilm", name="debian-minilm", store=store), progress)


def xquad(into: Path) -> Path:
    """XQuAD as a BEIR folder: 240 paragraphs and 1,190 questions in each of 12 languages, all of them test queries.

    A passage is `<lang>/p<n>`, the same n in each language; a question is labelled with its own language's paragraph.
    """
    source = need(SHARED / "xquad")
    queries: list[dict[str, Any]] = []
    qrels: list[tuple[str, str]] = []
    for lang in XQUAD_LANGUAGES:
        passages = []
        articles = json.loads((source / f"xquad.{lang}.json").read_text(encoding="utf-8"))["data"]
        paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
        for number, paragraph in enumerate(paragraphs):
            passages.append({"_id": f"p{number}", "text": paragraph["context"]})
            for question in paragraph["qas"]:
                name = f"{lang}/{question['id']}"
                queries.append({"_id": name, "text": question["question"], "lang": lang})
                qrels.append((name, f"{lang}/p{number}"))
        write_rows(into / f"corpus.{lang}.jsonl", passages)
    write_rows(into / "queries.test.jsonl", queries)
    write_qrels(into / "qrels.test.tsv", qrels)
    return into


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a .jsonl.gz file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def write_rows(path: Path, values: Iterable[dict[str, Any]]) -> None:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def write_qrels(path: Path, pairs: Iterable[tuple[str, str]]) -> None:
    """BEIR's three columns, all of grade 1."""
    with path.open("w", encoding="utf-8") as out:
        out.write("query-id\tcorpus-id\tscore\n")
        out.writelines(f"{query}\t{passage}\t1\n" for query, passage in pairs)
