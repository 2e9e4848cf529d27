"""From artefacts to the arrays that training reads: which passages, which lists, and their tokens.

Positives come from the qrels, hard negatives are the candidates that no qrel calls relevant. Held-out queries measure when
to stop: those of `dev_queries`, else a share of the training queries that is then not trained on. A held-out list is the
query's positives and its first candidates; where the dev queries have no candidates, random passages stand in for them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retort.errors import InputError
from retort.metrics.measures import evaluate
from retort.store import Artefact
from retort.teaching.checks import KnownQueries, KnownTexts
from retort.teaching.groups import ragged
from retort.teaching.pairs import PairLayout, tokenise
from retort.teaching.training_set import TrainingSet

__all__ = ["HeldOut", "prepare"]

PASSAGES_AT_ONCE = 8192
MEASURE = "ndcg@10"


@dataclass(frozen=True)
class HeldOut:
    """How the held-out lists are made."""

    queries: int  # at most so many
    depth: int  # passages per list, positives included
    seed: int


def prepare(
    *,
    candidates: Artefact,
    queries: KnownQueries,
    passages: KnownTexts,
    tokenizer: Any,
    max_tokens: int,
    held_out: HeldOut,
    dev_queries: KnownQueries | None = None,
    dev_candidates: Artefact | None = None,
) -> TrainingSet:
    """Return the training set.

    Raises:
        InputError: fewer than two queries have both a labelled passage and candidates.
    """
    lists = _candidate_lists(candidates)
    trainable = [query for query in queries.ids if query in lists and _relevant(queries, query)]
    if len(trainable) < 2:
        raise InputError(
            f"{len(trainable)} queries of {candidates} have a passage labelled relevant; training a teacher needs two at least. "
            "Give a query set with qrels, or name a ready cross-encoder as teacher."
        )
    generator = np.random.default_rng([held_out.seed, 1])
    if dev_queries is None:
        count = max(1, min(held_out.queries, len(trainable) // 20))
        chosen = {trainable[i] for i in generator.permutation(len(trainable))[:count].tolist()}
        dev, dev_lists, dev_set = [query for query in trainable if query in chosen], lists, queries
        trainable = [query for query in trainable if query not in chosen]
    else:
        dev_set = dev_queries
        dev_lists = _candidate_lists(dev_candidates) if dev_candidates is not None else {}
        able = [query for query in dev_set.ids if _relevant(dev_set, query) and (not dev_lists or query in dev_lists)]
        dev = [able[i] for i in sorted(generator.permutation(len(able))[: held_out.queries].tolist())]
        if not dev:
            raise InputError(
                "No dev query has a passage labelled relevant (and candidates, where dev_candidates are given)."
            )

    rows: dict[str, int] = {}  # passage id -> row of this training set

    def row_of(passage: str) -> int:
        return rows.setdefault(passage, len(rows))

    positives, pool = [], []
    for query in trainable:
        relevant = _relevant(queries, query)
        positives.append([row_of(passage) for passage in relevant])
        pool.append([row_of(passage) for passage in lists[query] if passage not in relevant])
    fill = list(rows)  # what stands in where dev queries have no candidates
    held, grades = [], []
    for query in dev:
        relevant = _relevant(dev_set, query)
        others = [passage for passage in dev_lists.get(query, ()) if passage not in relevant]
        if query not in dev_lists:
            others = [
                fill[i] for i in generator.permutation(len(fill))[: held_out.depth].tolist() if fill[i] not in relevant
            ]
        members = [*relevant, *others[: max(1, held_out.depth - len(relevant))]]
        held.append([row_of(passage) for passage in members])
        grades.append([relevant.get(passage, 0) for passage in members])

    first_stage = None
    source = dev_candidates if dev_queries is not None else candidates
    if source is not None:
        first_stage = _first_stage_ndcg(source, {query: _relevant(dev_set, query) for query in dev}, held_out.depth)
    return TrainingSet(
        query_tokens=tokenise(tokenizer, [_query_texts(queries, trainable) + _query_texts(dev_set, dev)], max_tokens),
        passage_tokens=tokenise(tokenizer, _passage_texts(passages, list(rows)), max_tokens),
        positives=ragged(positives),
        pool=ragged(pool),
        held_out=ragged(held),
        grades=ragged(grades),
        query_ids=[*trainable, *dev],
        layout=PairLayout.of(tokenizer, max_tokens),
        first_stage=first_stage,
    )


def _candidate_lists(candidates: Artefact) -> dict[str, list[str]]:
    """Return each query's candidates in rank order, sources taking turns, each passage once."""
    lists: dict[str, list[str]] = {}
    for part in candidates.parts():
        rows: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
        table = candidates.part(part, columns=["query_id", "rank", "source", "passage_id"])
        for query, rank, source, passage in zip(*(table.column(i).to_pylist() for i in range(4)), strict=True):
            # Random passages behind all others: they are the easy ones.
            rows[query].append((rank if source != "random" else 1 << 30, source, passage))
        lists.update(
            {query: list(dict.fromkeys(passage for _, _, passage in sorted(found))) for query, found in rows.items()}
        )
    return lists


def _first_stage_ndcg(candidates: Artefact, qrels: Mapping[str, Mapping[str, int]], depth: int) -> float | None:
    """Return nDCG@10 of the search that the candidates came from, dense where there is one; None where neither ranked.

    Only its first `depth` count, as in the lists that the teacher ranks: a teacher below this figure makes results worse.
    """
    runs: dict[str, dict[str, dict[str, float]]] = {"dense": defaultdict(dict), "bm25": defaultdict(dict)}
    for part in candidates.parts():
        table = candidates.part(part, columns=["query_id", "passage_id", "source", "rank"])
        for query, passage, source, rank in zip(*(table.column(i).to_pylist() for i in range(4)), strict=True):
            if source in runs and query in qrels:
                runs[source][query][passage] = -float(rank)
    for run in runs.values():
        if run:
            first = {
                query: dict(sorted(found.items(), key=lambda item: -item[1])[:depth]) for query, found in run.items()
            }
            values = evaluate(first, qrels, (MEASURE,))[MEASURE]
            return sum(values.values()) / len(values)
    return None


def _relevant(queries: KnownQueries, query: str) -> dict[str, int]:
    """Return the passages labelled relevant for a query, with their grades."""
    labelled: Mapping[str, int] = queries.qrels.get(query, {})
    return {passage: grade for passage, grade in labelled.items() if grade > 0}


def _query_texts(queries: KnownQueries, ids: Sequence[str]) -> list[str]:
    texts = dict(zip(queries.ids, queries.texts, strict=True))
    return [texts[query] for query in ids]


def _passage_texts(passages: KnownTexts, ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), PASSAGES_AT_ONCE):
        yield passages.texts(ids[start : start + PASSAGES_AT_ONCE])
