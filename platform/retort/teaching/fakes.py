"""Stand-ins with checkable answers for what the teaching room reads and asks; tests of any room may use them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from retort.corpus.passages import content_hash
from retort.store import Artefact, Store
from retort.store.schemas import CANDIDATE, PASSAGE, QREL, QUERY, part_name
from retort.teaching.scorer import Verdict

__all__ = ["SMALL_WORDS", "FakeJudge", "FakePassages", "FakeQueries", "publish_small_world"]


@dataclass
class FakeQueries:
    """Queries side by side with their texts, as `corpus.queries.QuerySet` has them."""

    ids: list[str]
    texts: list[str]
    qrels: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass
class FakePassages:
    """Texts by id, as `corpus.lookup.Passages` has them; KeyError for an unknown id."""

    by_id: dict[str, str]

    @property
    def ids(self) -> list[str]:
        """Ids in the order given."""
        return list(self.by_id)

    def texts(self, ids: Sequence[str]) -> list[str]:
        """Return one text per id, in order."""
        return [self.by_id[id_] for id_ in ids]


@dataclass
class FakeJudge:
    """Score = characters of the passage minus those of the query; refuses passages with the word `boom`, answers nan to `nan`."""

    seen: list[tuple[str, str]] = field(default_factory=list)
    by_query: bool = False

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Return one verdict per pair; `seen` keeps the pairs in the order asked."""
        if any("boom" in passage for _, passage in pairs):
            raise IndexError("index out of range in self")
        self.seen.extend(pairs)
        return [
            Verdict(
                float("nan") if passage == "nan" else float(len(passage) - len(query)), 0, bytes([len(passage) % 256])
            )
            for query, passage in pairs
        ]


SMALL_WORDS = [
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "heath",
    "inlet",
    "jetty",
    "knoll",
    "larch",
    "marsh",
    "north",
    "ocean",
    "poplar",
    "quarry",
    "river",
    "stone",
    "thorn",
]


def publish_small_world(
    store: Store, *, passages: int = 40, queries: int = 24, per_part: int = 8, depth: int = 6
) -> dict[str, Artefact]:
    """Publish a corpus, queries and candidates that a tiny model can learn: a query is two words of the passage it asks for.

    Returns:
        corpus, queries (with qrels) and candidates; `per_part` queries to a part of `depth` candidates each, positive included.
    """
    generator = np.random.default_rng(3)
    topics = [generator.choice(SMALL_WORDS, size=2, replace=False).tolist() for _ in range(passages)]
    texts = [
        " ".join([*topic, *generator.choice(SMALL_WORDS, size=int(generator.integers(3, 12)))]) for topic in topics
    ]
    rows = [
        {"passage_id": f"p{i}", "text": text, "title": "", "lang": "en", "section": "", "doc_id": f"d{i}",
         "content_hash": content_hash("", text), "fields": "{}"}
        for i, text in enumerate(texts)
    ]  # fmt: skip
    corpus = _publish(store, "corpus", {part_name(0): pa.Table.from_pylist(rows, schema=PASSAGE)}, {})
    asked = [
        {"query_id": f"q{i}", "text": " ".join(topics[i]), "lang": "en", "origin": "user", "fields": "{}"}
        for i in range(queries)
    ]
    labels = [{"query_id": f"q{i}", "passage_id": f"p{i}", "grade": 1} for i in range(queries)]
    files = {
        "queries.parquet": pa.Table.from_pylist(asked, schema=QUERY),
        "qrels.parquet": pa.Table.from_pylist(labels, schema=QREL),
    }
    query_set = _publish(store, "queries", files, {"corpus": corpus})
    parts = {}
    for number, start in enumerate(range(0, queries, per_part)):
        found = []
        for i in range(start, min(start + per_part, queries)):
            others = [p for p in generator.permutation(passages)[:depth].tolist() if p != i][: depth - 1]
            found += [
                {"query_id": f"q{i}", "passage_id": f"p{p}", "source": "dense", "rank": rank, "score": 1.0 / (1 + rank)}
                for rank, p in enumerate([i, *others])
            ]
        parts[part_name(number)] = pa.Table.from_pylist(found, schema=CANDIDATE)
    candidates = _publish(store, "candidates", parts, {"corpus": corpus, "queries": query_set})
    return {"corpus": corpus, "queries": query_set, "candidates": candidates}


def _publish(store: Store, kind: str, files: dict[str, pa.Table], inputs: dict[str, Artefact]) -> Artefact:
    draft = store.draft(kind, "small", step="fake", inputs=inputs, config={"files": sorted(files)})
    with draft:
        for path, table in files.items():
            draft.write_table(path, table)
        return draft.publish(rows=sum(table.num_rows for table in files.values()))
