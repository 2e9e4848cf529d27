"""Columns of the Parquet files in each kind of artefact; design.md's table, as pyarrow schemas."""

from __future__ import annotations

import pyarrow as pa

PART_QUERIES = 256
"""Queries per part of candidates and judgements: one part is the unit of work, of resumption and of memory."""

PASSAGE = pa.schema(
    [
        pa.field("passage_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("section", pa.string(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("fields", pa.string(), nullable=False),
    ]
)

QUERY = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("fields", pa.string(), nullable=False),
    ]
)

QREL = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("passage_id", pa.string(), nullable=False),
        pa.field("grade", pa.int32(), nullable=False),
    ]
)

CANDIDATE = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("passage_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
    ]
)

JUDGEMENT = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("passage_id", pa.string(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("window", pa.int16(), nullable=False),
        pa.field("trust", pa.float32(), nullable=False),
        pa.field("word_map", pa.binary(), nullable=True),
    ]
)


def embedding_schema(dimension: int) -> pa.Schema:
    """Schema of an embeddings part: `vector` is [dimension] float16."""
    return pa.schema(
        [
            pa.field("passage_id", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.float16(), dimension), nullable=False),
            pa.field("content_hash", pa.string(), nullable=False),
        ]
    )


def part_name(number: int) -> str:
    """`part-00007.parquet`."""
    return f"part-{number:05d}.parquet"
