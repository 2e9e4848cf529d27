"""Which queries a teacher was trained on, and which only decided when its training stopped.

`train-teacher` writes them into the teacher as `trained_on.parquet`. A teacher without that file is asked through its lineage:
every labelled query of its training set that had candidates counts as seen. Of an imported teacher nothing is known.

Queries are compared by their folded text, not by id: a dev query that asks what a training query asked is seen.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retort.corpus.queries import QuerySet
from retort.corpus.words import fold
from retort.errors import NotFoundError
from retort.store import Artefact

__all__ = ["TRAINED_ON", "Trained", "same_question", "trained_on", "trained_on_table"]

TRAINED_ON = "trained_on.parquet"
COLUMNS = pa.schema(
    [pa.field("query_id", pa.string(), nullable=False), pa.field("held_out", pa.bool_(), nullable=False)]
)


@dataclass(frozen=True)
class Trained:
    """A teacher's training queries and where they are."""

    queries: Artefact
    candidates: Artefact
    corpus: Artefact
    ids: list[str]  # of `queries`, trained on
    texts: frozenset[str]  # theirs, as `same_question` gives them
    held_out_texts: frozenset[str]  # of the queries that chose the best checkpoint


def trained_on_table(trained: Sequence[str], held_out: Sequence[str]) -> pa.Table:
    """Return what `train-teacher` writes."""
    return pa.table(
        [pa.array([*trained, *held_out], pa.string()), pa.array([False] * len(trained) + [True] * len(held_out))],
        schema=COLUMNS,
    )


def trained_on(teacher: Artefact) -> Trained | None:
    """Return a teacher's training queries; None for an imported teacher, or where the store no longer has them."""
    try:
        queries, candidates, corpus = (teacher.input(role) for role in ("queries", "candidates", "corpus"))
    except NotFoundError:
        return None
    known = QuerySet.open(queries)
    if TRAINED_ON in teacher.files():
        table = pq.read_table(io.BytesIO(teacher.area.read(TRAINED_ON)))
        ids = table.filter(pc.invert(table["held_out"]))["query_id"].to_pylist()
        held_out = table.filter(table["held_out"])["query_id"].to_pylist()
    else:
        named = {
            query
            for part in candidates.parts()
            for query in candidates.part(part, ["query_id"])["query_id"].to_pylist()
        }
        ids, held_out = [query for query in known.labelled if query in named], []
    stopped_by = known
    if any(record.role == "dev_queries" for record in teacher.manifest.inputs):
        try:
            stopped_by = QuerySet.open(teacher.input("dev_queries"))
        except NotFoundError:
            held_out = []
    return Trained(queries, candidates, corpus, ids, _texts(known, ids), _texts(stopped_by, held_out))


def same_question(text: str) -> str:
    """Return what two texts of the same question have in common: no case, width or spacing."""
    return " ".join(fold(text).split())


def _texts(queries: QuerySet, ids: Sequence[str]) -> frozenset[str]:
    return frozenset(same_question(queries.texts[queries.positions[query]]) for query in ids)
