"""Small multilingual worlds for the guard: published corpora, queries and vectors, and an encoder whose vectors are given."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from retort.corpus.passages import content_hash
from retort.models.dual_encoder import DualEncoder
from retort.models.fakes import tiny_encoder
from retort.store import Artefact, open_store
from retort.store.schemas import PASSAGE, QREL, QUERY, embedding_schema, part_name
from retort.teaching.fakes import SMALL_WORDS

WORDS = SMALL_WORDS[:16]
LANGUAGES = ("en-us", "de", "ja")


@dataclass
class World:
    """Rows to publish. `vectors` are of the passages, in order."""

    passages: list[dict[str, Any]] = field(default_factory=list)
    queries: list[dict[str, Any]] = field(default_factory=list)
    qrels: list[dict[str, Any]] = field(default_factory=list)

    def passage(self, passage_id: str, lang: str, text: str = "", section: str = "", **fields: Any) -> None:
        self.passages.append(
            {"passage_id": passage_id, "text": text or passage_id, "title": "", "lang": lang, "section": section, "doc_id": passage_id,
             "content_hash": content_hash("", text), "fields": json.dumps(fields)}
        )  # fmt: skip

    def query(self, query_id: str, lang: str, relevant: dict[str, int], text: str = "", **fields: Any) -> None:
        self.queries.append(
            {
                "query_id": query_id,
                "text": text or query_id,
                "lang": lang,
                "origin": "user",
                "fields": json.dumps(fields),
            }
        )
        self.qrels += [{"query_id": query_id, "passage_id": p, "grade": grade} for p, grade in relevant.items()]

    def publish(
        self, vectors: Any, space: str, *, name: str = "small", similarity: str = "cosine"
    ) -> tuple[Artefact, Artefact]:
        """(queries, embeddings)."""
        tables = {part_name(0): pa.Table.from_pylist(self.passages, schema=PASSAGE)}
        corpus = publish("corpus", tables, {}, name)
        tables = {
            "queries.parquet": pa.Table.from_pylist(self.queries, schema=QUERY),
            "qrels.parquet": pa.Table.from_pylist(self.qrels, schema=QREL),
        }
        queries = publish("queries", tables, {"corpus": corpus}, f"{name}.dev")
        half = np.asarray(vectors, dtype=np.float16)
        column = pa.FixedSizeListArray.from_arrays(pa.array(half.reshape(-1)), half.shape[1])
        ids = pa.array([row["passage_id"] for row in self.passages])
        table = pa.Table.from_arrays([ids, column, pa.array([""] * len(half))], schema=embedding_schema(half.shape[1]))
        facts = {"count": len(half), "dimension": half.shape[1], "similarity": similarity, "passage_space": space}
        embeddings = publish("embeddings", {part_name(0): table}, {"corpus": corpus}, name, facts)
        return queries, embeddings


def publish(
    kind: str,
    tables: dict[str, pa.Table],
    inputs: dict[str, Artefact],
    name: str,
    metrics: dict[str, Any] | None = None,
) -> Artefact:
    what = {path: str(table.to_pylist()) for path, table in tables.items()}
    draft = open_store().draft(kind, name, step="test", inputs=inputs, config={"what": what, **(metrics or {})})
    with draft:
        if draft.published:
            return draft.published
        for path, table in tables.items():
            draft.write_table(path, table)
        return draft.publish(metrics=metrics or {})


def tiny(folder: Path, **options: Any) -> DualEncoder:
    if not folder.exists():
        tiny_encoder(folder, WORDS, **options)
    return DualEncoder.load(folder, device="cpu", precision="fp32")


def sections(count: int = 24, seed: int = 0) -> World:
    """The same `count` sections in three languages, `<lang>/sNN`, with module and folder; each is asked for by two of its words."""
    world = World()
    rng = np.random.default_rng(seed)
    topics = [rng.choice(WORDS, size=4, replace=False).tolist() for _ in range(count)]
    for language in LANGUAGES:
        for number, topic in enumerate(topics):
            text = " ".join([*topic, language, f"s{number}"])
            world.passage(f"{language}/s{number}", language, text, module=f"m{number % 2}", folder=f"f{number % 4}")
            world.query(
                f"{language}/s{number}",
                language,
                {f"{language}/s{number}": 1},
                " ".join([*topic[:2], language]),
                page=number,
            )
    return world


def published_sections(encoder: DualEncoder, count: int = 24, seed: int = 0) -> tuple[Artefact, Artefact]:
    world = sections(count, seed)
    vectors = encoder.encode([row["text"] for row in world.passages], "passage")
    return world.publish(vectors, encoder.passage_space)


class GivenVectors:
    """Stands where a DualEncoder stands; token ids [n] give row n of `vectors`, so that scores are known exactly."""

    def __init__(self, vectors: Any, space: str = "s" * 64) -> None:
        self.vectors = np.asarray(vectors, dtype=np.float32)
        self.passage_space = space
        self.device = torch.device("cpu")

    @property
    def dimension(self) -> int:
        return int(self.vectors.shape[1])

    def tokenize(self, texts: list[str], side: str) -> list[list[int]]:
        """A query's text is its row."""
        return [[int(text)] for text in texts]

    def encode_tokens(self, rows: list[list[int]]) -> Any:
        return self.vectors[[row[0] for row in rows]] if rows else np.zeros((0, self.dimension), dtype=np.float32)
