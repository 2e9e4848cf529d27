"""The test queries of `distillation.py` as the data's own files tell them: their order, their passages, what they are sliced by.

No store is needed, so that a report can be made of records alone. Places in a record are in the order of `ids`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from distillation_plan import Plan
from harness import SHARED, need
from real_data import rows

from retort.corpus.passages import passage_text
from retort.corpus.words import word_spans
from retort.evaluation.findings import QueryFacts

__all__ = ["Tested", "digest_of", "kept_packages", "tested"]


@dataclass(frozen=True)
class Tested:
    """Queries that are reported on; each has exactly one relevant passage, of grade 1."""

    ids: tuple[str, ...]
    relevant: dict[str, str]  # query -> passage
    facts: dict[str, QueryFacts]

    @property
    def digest(self) -> str:
        """Of the ids in their order: what binds a record's places to them."""
        return digest_of(self.ids)

    @property
    def qrels(self) -> dict[str, dict[str, int]]:
        return {query: {passage: 1} for query, passage in self.relevant.items()}

    def sample(self, count: int) -> list[str]:
        """The random sample that the teacher re-ranks, in order; the same for every seed."""
        chosen = np.random.default_rng(13).permutation(len(self.ids))[:count]
        return [self.ids[place] for place in sorted(chosen.tolist())]


def tested(plan: Plan) -> Tested:
    """Read them from `../shared/data/debian`."""
    folder, kept = need(SHARED / "debian"), kept_packages(plan)
    queries = {row["_id"]: row for row in rows(folder / "queries.test.jsonl.gz") if kept is None or row["_id"] in kept}
    lines = (folder / "qrels.test.tsv").read_text(encoding="utf-8").splitlines()[1:]
    judged = [line.split("\t") for line in lines]
    judged = [entry for entry in judged if entry[0] in queries]
    counted = Counter(query for query, _, _ in judged)
    assert set(counted) == set(queries) and set(counted.values()) == {1}, "a test query without its one passage"
    assert {grade for _, _, grade in judged} == {"1"}, "a place alone says the measures only where all grades are 1"
    relevant = {query: passage for query, passage, _ in judged}
    wanted = set(relevant.values())
    facts = {row["_id"]: row for row in rows(folder / "corpus.jsonl.gz") if row["_id"] in wanted}
    ids = tuple(queries)
    return Tested(
        ids,
        {query: relevant[query] for query in ids},
        {query: _facts(facts[relevant[query]]) for query in ids},
    )


def kept_packages(plan: Plan) -> set[str] | None:
    """Packages of a cut collection: every n-th, so that sections and splits keep their shares; None where all are kept."""
    if plan.passages is None:
        return None
    every = [row["_id"] for row in rows(need(SHARED / "debian") / "corpus.jsonl.gz")]
    return set(every[:: max(1, len(every) // plan.passages)])


def digest_of(ids: Iterable[str]) -> str:
    """sha256 of the ids, a line each."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def _facts(row: dict[str, str]) -> QueryFacts:
    words = len(word_spans(passage_text(row.get("title", ""), row["text"])))
    return QueryFacts(passage_words=words, section=row["section"], lang="", origin="")
