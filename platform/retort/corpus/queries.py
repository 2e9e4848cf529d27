"""A published split of queries, in memory: texts, languages, origins and qrels."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import pyarrow.parquet as pq

from retort.errors import InputError
from retort.store import Artefact


@dataclass(frozen=True)
class QuerySet:
    """Queries in the order of their file; `ids`, `texts`, `langs`, `origins` and `fields` (JSON) run in parallel.

    `qrels` are query id -> passage id -> grade, as measures take them; a query without a relevant passage has no entry.
    """

    ids: list[str]
    texts: list[str]
    langs: list[str]
    origins: list[str]
    fields: list[str]
    qrels: dict[str, dict[str, int]]

    @classmethod
    def open(cls, artefact: Artefact) -> Self:
        """Read an artefact of kind "queries". InputError for another kind."""
        if artefact.kind != "queries":
            raise InputError(
                f"{artefact} is of kind {artefact.kind}; queries are needed here, such as <corpus name>.train."
            )
        queries = pq.read_table(io.BytesIO(artefact.area.read("queries.parquet")))
        columns: dict[str, list[Any]] = {name: queries[name].to_pylist() for name in queries.column_names}
        qrels: dict[str, dict[str, int]] = {}
        judged = pq.read_table(io.BytesIO(artefact.area.read("qrels.parquet")))
        for query_id, passage_id, grade in zip(
            *(judged[name].to_pylist() for name in ("query_id", "passage_id", "grade")), strict=True
        ):
            qrels.setdefault(query_id, {})[passage_id] = grade
        return cls(columns["query_id"], columns["text"], columns["lang"], columns["origin"], columns["fields"], qrels)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def positions(self) -> dict[str, int]:
        """Query id -> its place in the lists."""
        return {query_id: place for place, query_id in enumerate(self.ids)}

    def positives(self, query_id: str) -> list[str]:
        """Ids of the passages with a grade above 0, in the order of the qrels; [] for an unlabelled query."""
        return [passage_id for passage_id, grade in self.qrels.get(query_id, {}).items() if grade > 0]

    @property
    def labelled(self) -> list[str]:
        """Ids of the queries that have a relevant passage, in order."""
        return [query_id for query_id in self.ids if self.positives(query_id)]

    def field(self, query_id: str) -> dict[str, Any]:
        """The further fields of a query."""
        value: dict[str, Any] = json.loads(self.fields[self.positions[query_id]])
        return value

    def subset(self, ids: Iterable[str]) -> Self:
        """Only these queries, in this order."""
        chosen = list(ids)
        places = [self.positions[query_id] for query_id in chosen]

        def take(values: Sequence[str]) -> list[str]:
            return [values[place] for place in places]

        qrels = {query_id: self.qrels[query_id] for query_id in chosen if query_id in self.qrels}
        return type(self)(chosen, take(self.texts), take(self.langs), take(self.origins), take(self.fields), qrels)
