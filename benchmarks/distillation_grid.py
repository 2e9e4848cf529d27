"""The cells of the grid: a row of `distillation_plan.py` with a seed, trained over all rounds and measured on the test queries.

Everything is an artefact: the search, each round's student, its vectors, its candidates, their judgements, the scores. A cell
that was interrupted goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from distillation_data import Data, progress
from distillation_plan import ROWS, Recipe

from retort.corpus.queries import QuerySet
from retort.distillation.config import DistilConfig
from retort.distillation.distil import distil
from retort.distillation.filtering import false_negative_filter
from retort.evaluation.rerank import rerank_all
from retort.metrics.measures import evaluate
from retort.mining.bm25 import Bm25
from retort.mining.dense import DenseSearch
from retort.mining.filtering import FilterSettings
from retort.models.judgements import Judgements
from retort.resources import Resources, available_cores, limit_threads
from retort.store import Artefact

MEASURES = ("mrr@10", "ndcg@10", "recall@1", "recall@10", "recall@100")
DEPTH = 100
MEASURED_FIRST = ("contrastive", "both_filtered")
Scores = dict[str, dict[str, float]]
"""Measure -> query -> value."""


@dataclass(frozen=True)
class Round:
    """What a round learnt from, and what came of it."""

    number: int
    judgements: Artefact
    student: Artefact


class Grid:
    """Trains and measures cells."""

    def __init__(self, data: Data) -> None:
        self.data, self.plan = data, data.plan
        # What the targets compare comes first: an unfinished grid already tells something.
        self.cells = [
            (recipe, seed)
            for seed in self.plan.seeds
            for recipe in sorted(ROWS, key=lambda recipe: recipe.name not in MEASURED_FIRST)
        ]

    # Training ---------------------------------------------------------------------------------------------------------------

    def rounds(self, recipe: Recipe, seed: int) -> list[Round]:
        """All rounds of a cell: train, embed and mine with the student, score, train on."""
        done: list[Round] = []
        for number in range(self.plan.rounds):
            judgements = self.data.judgements if not done else self._judged_again(recipe, seed, done[-1])
            start = done[-1].student if done else None
            done.append(Round(number, judgements, self._student(recipe, seed, number, judgements, start)))
        return done

    def _student(
        self, recipe: Recipe, seed: int, number: int, judgements: Artefact, start: Artefact | None
    ) -> Artefact:
        # In the first round a static threshold is the dynamic one, so that both rows begin with the same student.
        kind = "dynamic" if recipe.filter == "static" and number == 0 else recipe.filter
        name = "both_filtered" if recipe.filter == "static" and number == 0 else recipe.name
        first = self.plan.seeds[0]
        searches = number == 0 and seed == first
        config: dict[str, Any] = {
            "base": "minilm", "corpus": self.data.corpus.uri, "queries": self.data.queries["train"].uri, "judgements": judgements.uri,
            "dev_queries": self.data.queries["dev"].uri, "dev_candidates": self.data.dev_candidates.uri, "use_unjudged": False,
            "filter": {"method": kind}, "round": number, "seed": seed, "name": f"{self.data.prefix}-{name}-{seed}-{number}",
            "store": self.data.store.uri, **recipe.losses(), **self.plan.student, **self.plan.dev_pool,
        }  # fmt: skip
        if searches:
            config["search"] = self.plan.search
        else:
            # Found once, with the first seed, on dev queries; every row has its own search of equal cost.
            config |= self._student(recipe, first, 0, self.data.judgements, None).metrics["search"]["values"]
        if start is not None:
            config["start"] = start.uri
        return distil(DistilConfig.validated(config), progress)

    def _judged_again(self, recipe: Recipe, seed: int, last: Round) -> Artefact:
        """Candidates that this cell's student finds, judged; pairs that were judged before are taken over."""
        name = f"{self.data.prefix}-{recipe.name}-{seed}-{last.number + 1}"
        vectors = self.data.systems_vectors(last.student.uri, f"{name}-mining")
        candidates = self.data.mined(vectors, "train", self.plan.taught, f"{name}-candidates")
        return self.data.judged(candidates, f"{name}-judged")

    # Measuring --------------------------------------------------------------------------------------------------------------

    def scores(self, recipe: Recipe, seed: int) -> Scores:
        """What a cell's last student gets on the test queries."""
        return self.scores_of(self.rounds(recipe, seed)[-1].student, f"{recipe.name}-{seed}")

    def scores_of(self, encoder: Artefact, name: str) -> Scores:
        """An encoder's scores, by exact search of the whole collection."""
        vectors = self.data.systems_vectors(encoder.uri, f"{self.data.prefix}-{name}-vectors")
        inputs = {"encoder": encoder, "embeddings": vectors, "queries": self.data.queries["test"]}
        return self._kept(
            name, inputs, lambda: self._measured(self.ranked(encoder, vectors, list(self.data.test.texts)))
        )

    def bm25(self) -> Scores:
        """BM25's scores."""

        def work() -> Scores:
            ids = list(self.data.test.texts)
            found, values = Bm25.open(self.data.corpus, progress=progress).search(
                list(self.data.test.texts.values()), DEPTH
            )
            run = {
                query: dict(zip(own, map(float, score), strict=True))
                for query, own, score in zip(ids, found, values, strict=True)
            }
            return self._measured(run)

        return self._kept("bm25", {"corpus": self.data.corpus, "queries": self.data.queries["test"]}, work)

    def teacher(self, recipe: Recipe, seed: int) -> Scores:
        """The teacher re-ranking the top 100 of a cell's last student, on some of the test queries."""
        student = self.rounds(recipe, seed)[-1].student
        vectors = self.data.systems_vectors(student.uri, f"{self.data.prefix}-{recipe.name}-{seed}-vectors")
        inputs = {
            "encoder": student,
            "embeddings": vectors,
            "queries": self.data.queries["test"],
            "teacher": self.data.teacher,
        }
        draft = self.data.store.draft("report", f"{self.data.prefix}-teacher-{seed}", step="benchmark", inputs=inputs, config=self._config("teacher"))  # fmt: skip
        if draft.published is None:
            with draft:
                chosen = self.reranked_queries()
                texts = {query: self.data.test.texts[query] for query in chosen}
                rankings = {query: sorted(hits.items(), key=lambda hit: -hit[1]) for query, hits in self.ranked(student, vectors, chosen).items()}  # fmt: skip
                limit_threads(available_cores())
                run = rerank_all(
                    rankings, texts, top=DEPTH, teacher=self.data.teacher, corpus=self.data.corpus, draft=draft, resources=Resources(workers=1),
                    progress=progress,
                )  # fmt: skip
                draft.write_json("scores.json", self._measured({query: dict(hits) for query, hits in run.items()}))
                draft.publish()
        return _read(draft.published)

    def reranked_queries(self) -> list[str]:
        """Test queries that the teacher re-ranks: a random sample, the same for every seed."""
        queries = list(self.data.test.texts)
        order = np.random.default_rng(13).permutation(len(queries))[: self.plan.reranked_queries]
        return [queries[place] for place in sorted(order.tolist())]

    def ranked(self, encoder: Artefact, vectors: Artefact, queries: Sequence[str]) -> dict[str, dict[str, float]]:
        """Top passages of test queries, searched exactly."""
        limit_threads(available_cores())
        search = DenseSearch.open(encoder, vectors)
        ids, scores = search.search([self.data.test.texts[query] for query in queries], DEPTH)
        return {
            query: dict(zip(own, map(float, values), strict=True))
            for query, own, values in zip(queries, ids, scores, strict=True)
        }

    def _measured(self, run: Mapping[str, Mapping[str, float]]) -> Scores:
        qrels = {query: self.data.test.qrels[query] for query in run}
        return {measure: dict(values) for measure, values in evaluate(run, qrels, MEASURES).items()}

    def _kept(self, name: str, inputs: Mapping[str, Artefact], work: Any) -> Scores:
        draft = self.data.store.draft(
            "report", f"{self.data.prefix}-{name}", step="benchmark", inputs=inputs, config=self._config(name)
        )
        if draft.published is None:
            with draft:
                draft.write_json("scores.json", work())
                draft.publish()
        return _read(draft.published)

    def _config(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "measures": MEASURES,
            "queries": self.plan.test_queries,
            "reranked": self.plan.reranked_queries,
        }

    # What was filtered ------------------------------------------------------------------------------------------------------

    def filtered(self, recipe: Recipe, seed: int) -> list[tuple[str, str, bool]]:
        """(query, passage, dropped) of every negative that the filter judged, over all rounds, each pair once."""
        queries = QuerySet.open(self.data.queries["train"])
        settings = FilterSettings.model_validate({"method": recipe.filter})
        found: dict[tuple[str, str], bool] = {}
        previous: float | None = None
        for one in self.rounds(recipe, seed):
            judgements = Judgements.open(one.judgements)
            outcome = false_negative_filter(judgements, queries, settings, round_number=one.number, previous=previous)
            previous = outcome.audit["threshold"] if outcome.audit else None
            for group in judgements:
                relevant = set(queries.positives(group.query_id))
                for passage, dropped in zip(group.passage_ids, outcome(group).tolist(), strict=True):
                    if relevant and passage not in relevant:
                        found[group.query_id, passage] = found.get((group.query_id, passage), False) or dropped
        return [(query, passage, dropped) for (query, passage), dropped in found.items()]

    # How far it is ----------------------------------------------------------------------------------------------------------

    def run(self, minutes: float) -> tuple[dict[tuple[str, int], Scores], list[float]]:
        """Measure cells until the minutes are over; {(row, seed): scores} of those that are done, and what each took."""
        began, found, seconds = time.monotonic(), {}, []
        for recipe, seed in self.cells:
            if time.monotonic() - began > minutes * 60:
                break
            start = time.monotonic()
            found[recipe.name, seed] = self.scores(recipe, seed)
            seconds.append(time.monotonic() - start)
        return found, seconds


def _read(artefact: Artefact | None) -> Scores:
    assert artefact is not None, "just published"
    scores: Scores = json.loads(artefact.local("scores.json").read_text(encoding="utf-8"))
    return scores
