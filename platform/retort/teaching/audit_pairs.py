"""The pairs of an audit: which queries, their candidates with labels and facts, and each teacher's scores of them.

    choose_queries(...)          a sample of the labelled queries that have candidates
    open_pairs(...) -> Pairs     their distinct candidates, side by side
    PairScorer of scorer.py      scores them; AuditWorker does one part for one teacher, run by stages.py

Parts are files in the audit's draft, scratch by their name: a killed audit goes on with the parts that are missing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.mining.candidates import query_sample
from retort.store import Artefact, Draft
from retort.teaching.pair_facts import read_facts
from retort.teaching.scorer import PairScorer, Verdict
from retort.teaching.trust import PairFacts

__all__ = [
    "AuditWorker",
    "Pairs",
    "choose_queries",
    "missing_scores",
    "open_pairs",
    "read_scores",
    "set_of",
    "write_pairs",
]

PART_QUERIES = 32
SEARCHES = ("dense", "bm25")  # sources with a ranking of their own; the first that there is counts


@dataclass(frozen=True)
class Pairs:
    """Queries with their distinct candidates; arrays are [n] pairs, grouped by query in the order of `queries`."""

    queries: QuerySet
    passages: Passages
    ids: list[tuple[str, str]]  # (query_id, passage_id)
    query: NDArray[np.int64]  # place of the pair's query in `queries`
    relevant: NDArray[np.bool_]
    facts: PairFacts
    search: str | None  # the search that ranked candidates, None where none did
    search_rank: NDArray[np.int64]  # from 1; 0 where it did not find the passage
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def qrels(self) -> dict[str, dict[str, int]]:
        """Labels of these queries, those of passages that are no candidates included."""
        return {query: dict(self.queries.qrels[query]) for query in self.queries.ids}

    def only(self, chosen: Collection[str]) -> Pairs:
        """Only the pairs of these queries."""
        ids = [query for query in self.queries.ids if query in chosen]
        rows = [row for row, (query, _) in enumerate(self.ids) if query in chosen]
        place = {query: number for number, query in enumerate(ids)}
        facts = {name: [values[row] for row in rows] for name, values in self.facts.model_dump().items()}
        return Pairs(
            queries=self.queries.subset(ids),
            passages=self.passages,
            ids=[self.ids[row] for row in rows],
            query=np.array([place[self.ids[row][0]] for row in rows], dtype=np.int64),
            relevant=self.relevant[rows],
            facts=PairFacts(**facts),
            search=self.search,
            search_rank=self.search_rank[rows],
            sources=self.sources,
        )


def choose_queries(candidates: Artefact, queries: QuerySet, at_most: int, seed: int) -> QuerySet:
    """Return at most so many of the labelled queries that have candidates; decided by seed and query id alone."""
    named: set[str] = set()
    for part in candidates.parts():
        named.update(candidates.part(part, columns=["query_id"]).column(0).to_pylist())
    return query_sample(queries.subset(query for query in queries.labelled if query in named), at_most, seed)


def open_pairs(candidates: Artefact, queries: QuerySet, corpus: Artefact) -> Pairs:
    """Return the candidates of `queries`, each passage once per query."""
    wanted = {query: number for number, query in enumerate(queries.ids)}
    lists: dict[str, dict[str, None]] = {query: {} for query in queries.ids}
    ranks: dict[str, dict[tuple[str, str], int]] = defaultdict(dict)
    for part in candidates.parts():
        table = candidates.part(part, columns=["query_id", "passage_id", "source", "rank"])
        for query, passage, source, rank in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if query in wanted:
                lists[query][passage] = None
                ranks[source][query, passage] = rank
    ids = [(query, passage) for query, found in lists.items() for passage in found]
    search = next((source for source in SEARCHES if source in ranks), None)
    # Ranks count from 1 whatever the candidates' file does.
    first = min(ranks[search].values()) if search else 0
    found = ranks[search] if search else {}
    passages = Passages.open(corpus)
    languages = dict(zip(queries.ids, queries.langs, strict=True))
    return Pairs(
        queries=queries,
        passages=passages,
        ids=ids,
        query=np.array([wanted[query] for query, _ in ids], dtype=np.int64),
        relevant=np.array([queries.qrels[query].get(passage, 0) > 0 for query, passage in ids], dtype=bool),
        facts=read_facts(ids, languages, passages),
        search=search,
        search_rank=np.array([found[pair] - first + 1 if pair in found else 0 for pair in ids], dtype=np.int64),
        sources=tuple(sorted(ranks)),
    )


def set_of(part: str) -> str:
    """Return the name of the set that a part belongs to."""
    return part.rsplit("-", 1)[0]


def _pairs_path(part: str) -> str:
    """Return where a part's pairs are in the draft."""
    return f"_pairs/{part}.parquet"


def _scores_path(teacher: int, part: str) -> str:
    return f"_scores/{teacher}/{part}.parquet"


def write_pairs(draft: Draft, name: str, pairs: Pairs) -> dict[str, int]:
    """Cut the pairs into parts for the workers; return pairs per part."""
    sizes: dict[str, int] = {}
    for number, start in enumerate(range(0, len(pairs.queries), PART_QUERIES)):
        rows = np.flatnonzero((pairs.query >= start) & (pairs.query < start + PART_QUERIES)).tolist()
        part = f"{name}-{number:05d}"
        columns = zip(*(pairs.ids[row] for row in rows), strict=True)
        draft.write_table(
            _pairs_path(part), pa.table(dict(zip(("query_id", "passage_id"), map(list, columns), strict=True)))
        )
        sizes[part] = len(rows)
    return sizes


def missing_scores(draft: Draft, teacher: int, sizes: Mapping[str, int]) -> dict[str, float]:
    """Return the parts, with their pairs, that this teacher has still to score."""
    return {part: float(size) for part, size in sizes.items() if not draft.has(_scores_path(teacher, part))}


def read_scores(draft: Draft, teacher: int, parts: Collection[str], pairs: Pairs) -> NDArray[np.float64]:
    """Return this teacher's scores of the pairs, [n]; NaN where a text could not be read."""
    found: dict[tuple[str, str], float] = {}
    for part in parts:
        table = draft.read_table(_scores_path(teacher, part))
        queries, passages, scores = (table.column(name).to_pylist() for name in ("query_id", "passage_id", "score"))
        found |= dict(zip(zip(queries, passages, strict=True), scores, strict=True))
    return np.array([found.get(pair, np.nan) for pair in pairs.ids], dtype=np.float64)


class AuditWorker:
    """Scores parts of an audit's pairs with one teacher."""

    def __init__(self, draft: Draft, teacher: int, scorer: PairScorer) -> None:
        """Take the number of the teacher in the audit, and what scores its pairs."""
        self._draft, self._teacher, self._scorer = draft, teacher, scorer

    def __call__(self, part: str) -> dict[str, Any]:
        """Score one part; return {pairs, quarantined, reused, seconds}."""
        began = time.monotonic()
        table = self._draft.read_table(_pairs_path(part))
        ids = list(zip(table.column("query_id").to_pylist(), table.column("passage_id").to_pylist(), strict=True))
        verdicts, _, reasons, reused = self._scorer.verdicts(ids)
        rows = list(_scored(ids, verdicts))
        columns = {"query_id": [q for q, _, _ in rows], "passage_id": [p for _, p, _ in rows]}
        scores = pa.array([score for _, _, score in rows], pa.float32())
        scored = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()} | {"score": scores})
        self._draft.write_table(_scores_path(self._teacher, part), scored)
        return {"pairs": len(rows), "quarantined": len(reasons), "reused": reused, "seconds": time.monotonic() - began}


def _scored(ids: list[tuple[str, str]], verdicts: list[Verdict | None]) -> Iterator[tuple[str, str, float]]:
    for (query, passage), verdict in zip(ids, verdicts, strict=True):
        if verdict is not None:
            yield query, passage, verdict.score
