"""A small corpus with queries, shared by the tests of mining."""

from __future__ import annotations

import pyarrow as pa
import pytest

from retort.corpus.passages import content_hash
from retort.store import open_store
from retort.store.schemas import PASSAGE, QREL, QUERY, part_name

PASSAGES = [
    ("p1", "Sorting", "Sort a list in place; the sort is stable."),
    ("p2", "", "Return a new sorted list from the items of an iterable."),
    ("p3", "Files", "Open a file and return a file object."),
    ("p4", "Files", "Close the file."),
    ("p5", "", "日本語の文書を検索する"),
    ("p6", "", "Read all bytes of a file."),
]
QUERIES = [("q1", "sort a list"), ("q2", "open the file"), ("q3", "zebra"), ("q4", "文書を検索")]
QRELS = [("q1", "p1", 1), ("q1", "p2", 2), ("q2", "p3", 1), ("q2", "p6", 0), ("q4", "p5", 1)]


@pytest.fixture
def store():
    return open_store()


@pytest.fixture
def publish_corpus(store):
    def publish(passages=PASSAGES, rows=4, name="docs"):
        draft = store.draft(
            "corpus", name, step="test", config={"passages": [list(row) for row in passages[:50]], "n": len(passages)}
        )
        with draft:
            for number, start in enumerate(range(0, len(passages), rows)):
                table = [
                    {
                        "passage_id": id_, "text": text, "title": title, "lang": "en", "section": "", "doc_id": id_,
                        "content_hash": content_hash(title, text), "fields": "{}",
                    }
                    for id_, title, text in passages[start : start + rows]
                ]  # fmt: skip
                draft.write_table(part_name(number), pa.Table.from_pylist(table, schema=PASSAGE))
            return draft.publish(rows=len(passages), licences=["MIT"], personal_data="none")

    return publish


@pytest.fixture
def publish_queries(store):
    def publish(corpus, queries=QUERIES, qrels=QRELS, name="docs.train"):
        draft = store.draft(
            "queries", name, step="test", inputs={"corpus": corpus}, config={"n": len(queries), "qrels": list(qrels)}
        )
        with draft:
            rows = [
                {"query_id": id_, "text": text, "lang": "en", "origin": "user", "fields": "{}"} for id_, text in queries
            ]
            draft.write_table("queries.parquet", pa.Table.from_pylist(rows, schema=QUERY))
            judged = [{"query_id": q, "passage_id": p, "grade": g} for q, p, g in qrels]
            draft.write_table("qrels.parquet", pa.Table.from_pylist(judged, schema=QREL))
            return draft.publish(rows=len(queries))

    return publish
