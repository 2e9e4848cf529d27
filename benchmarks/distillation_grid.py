"""The cells of one seed of `distillation.py`: the teacher, its students over all rounds, their places on the test queries.

Everything on the way is an artefact: teacher, search, each round's student, its vectors, its candidates, their judgements. A cell
that was interrupted goes on where it was; what a cell found goes into the seed's record (`distillation_seeds.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from distillation_data import Data, progress
from distillation_plan import BEST, ROWS, Recipe
from distillation_records import DEPTH, TEACHER, Filtered, places_of
from distillation_truth import is_duplicate, is_sibling

from retort.corpus.queries import QuerySet
from retort.distillation.config import DistilConfig
from retort.distillation.distil import distil
from retort.distillation.filtering import false_negative_filter
from retort.errors import NotFoundError
from retort.evaluation.rerank import rerank_all
from retort.mining.bm25 import Bm25
from retort.mining.dense import DenseSearch
from retort.mining.filtering import FilterSettings
from retort.models.judgements import Judgements
from retort.resources import Resources, available_cores, limit_threads
from retort.store import Artefact
from retort.teaching.score import ScoreConfig, score
from retort.teaching.train import TrainTeacherConfig, train_teacher

MEASURED_FIRST = ("contrastive", BEST.name)
Run = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Round:
    """What a round learnt from, and what came of it."""

    number: int
    judgements: Artefact
    student: Artefact


class Grid:
    """Trains and measures the cells of a seed."""

    def __init__(self, data: Data, seed: int, searched: Mapping[str, Mapping[str, float]] | None) -> None:
        """`searched` is what the first seed's search found of each row; None for the first seed, which searches."""
        self.data, self.plan, self.seed, self._searched = data, data.plan, seed, searched
        self._prefix, self._teachers_prefix = f"{data.prefix}-{seed}", f"{data.prefix}-{data.plan.first}"
        # What the targets compare comes first: a seed that is half done already tells something.
        self.recipes = sorted(ROWS, key=lambda recipe: recipe.name not in MEASURED_FIRST)

    @property
    def cells(self) -> dict[str, Callable[[], list[int]]]:
        """System -> its places, in the order of work; the teacher right after the student whose lists it re-ranks."""
        found: dict[str, Callable[[], list[int]]] = {"bm25": self.bm25, "base": self.base}
        for recipe in self.recipes:
            found[recipe.name] = partial(self.row, recipe)
            if recipe == BEST:
                found[TEACHER] = self.reranked
        return found

    # Training ---------------------------------------------------------------------------------------------------------------

    @cached_property
    def teacher(self) -> Artefact:
        """That of the first seed, for all that share its store: what differs between seeds is the students."""
        config = {
            "base": "minilm", "corpus": self.data.corpus.uri, "queries": self.data.made["train"].uri, "candidates": self.data.teacher_lists.uri,
            "dev_queries": self.data.made["dev"].uri, "dev_candidates": self.data.dev_candidates.uri, "seed": self.plan.first, "name": f"{self._teachers_prefix}-teacher",
        }  # fmt: skip
        return train_teacher(TrainTeacherConfig.validated({**config, **self.plan.teacher, **self.data.here}), progress)

    @cached_property
    def judgements(self) -> Artefact:
        """Of the first round's candidates."""
        return self._judged(self.data.candidates, f"{self._teachers_prefix}-judged", ())

    def rounds(self, recipe: Recipe) -> list[Round]:
        """All rounds of a row: train, embed and mine with the student, score, train on."""
        done: list[Round] = []
        for number in range(self.plan.rounds):
            judgements = self.judgements if not done else self._judged_again(recipe, done[-1])
            start = done[-1].student if done else None
            done.append(Round(number, judgements, self._student(recipe, number, judgements, start)))
        return done

    def values(self, recipe: Recipe) -> dict[str, float]:
        """What the row's search found, in the first round of the first seed; it holds for all rounds and seeds."""
        if self._searched is not None:
            return dict(self._searched[recipe.name])
        found: dict[str, float] = self._student(recipe, 0, self.judgements, None).metrics["search"]["values"]
        return found

    def _student(self, recipe: Recipe, number: int, judgements: Artefact, start: Artefact | None) -> Artefact:
        # In the first round a static threshold is the dynamic one, so that both rows begin with the same student.
        if recipe.filter == "static" and number == 0:
            recipe = BEST
        config: dict[str, Any] = {
            "base": self.data.base.uri, "corpus": self.data.corpus.uri, "queries": self.data.taught.uri, "judgements": judgements.uri,
            "dev_queries": self.data.made["dev"].uri, "dev_candidates": self.data.dev_candidates.uri, "use_unjudged": False,
            "filter": {"method": recipe.filter}, "round": number, "rounds": self.plan.rounds, "seed": self.seed, "name": f"{self._prefix}-{recipe.name}-{number}",
            **self.plan.student, **recipe.settings(self.plan.levels), **self.plan.dev_pool, **self.data.here,
        }  # fmt: skip
        if number == 0 and self._searched is None:
            config["search"] = self.plan.search
        else:
            config |= self.values(recipe)
        if start is not None:
            config["start"] = start.uri
        return distil(DistilConfig.validated(config), progress)

    def _judged_again(self, recipe: Recipe, last: Round) -> Artefact:
        """Candidates that this row's student finds, judged; pairs that were judged before are taken over."""
        name = f"{self._prefix}-{recipe.name}-{last.number + 1}"
        vectors = self.data.mining_vectors(last.student, f"{name}-mining")
        candidates = self.data.mined(vectors, self.data.taught, None, f"{name}-candidates")
        earlier = self.recipes[: self.recipes.index(recipe)]
        known = [
            found for one in earlier if (found := self._known(f"{self._prefix}-{one.name}-{last.number + 1}-judged"))
        ]
        return self._judged(candidates, f"{name}-judged", (self.judgements, *known))

    def _known(self, name: str) -> Artefact | None:
        """Judgements by this teacher and in this way that an earlier row left in the store, maybe in a run before this one."""
        with suppress(NotFoundError):
            found = self.data.store.get(name, "judgements")
            same = found.manifest.config == self.judgements.manifest.config
            if same and any(
                record.role == "teacher" and record.digest == self.teacher.digest for record in found.manifest.inputs
            ):
                return found
        return None

    def _judged(self, candidates: Artefact, name: str, reuse: tuple[Artefact, ...]) -> Artefact:
        """The teacher's judgements of candidates, both levels."""
        config = {
            "candidates": candidates.uri, "corpus": self.data.corpus.uri, "queries": self.data.taught.uri, "teacher": self.teacher.uri,
            "reuse": tuple(one.uri for one in reuse), "name": name,
        }  # fmt: skip
        return score(ScoreConfig.validated({**config, **self.data.here}), progress)

    # Measuring --------------------------------------------------------------------------------------------------------------

    def row(self, recipe: Recipe) -> list[int]:
        """A row's last student."""
        student = self.rounds(recipe)[-1].student
        return self._places(self._ranked(student, f"{self._prefix}-{recipe.name}-vectors", list(self.data.texts)))

    def base(self) -> list[int]:
        """MiniLM before its first step."""
        return self._places(self._ranked(self.data.base, f"{self.data.prefix}-base-vectors", list(self.data.texts)))

    def bm25(self) -> list[int]:
        texts = self.data.texts
        found, values = Bm25.open(self.data.corpus, progress=progress).search(list(texts.values()), DEPTH)
        return self._places({query: dict(zip(own, map(float, one), strict=True)) for query, own, one in zip(texts, found, values, strict=True)})  # fmt: skip

    def reranked(self) -> list[int]:
        """The teacher re-ranking the first hundred of its best student, on the sample."""
        student = self.rounds(BEST)[-1].student
        chosen = self.data.tests.sample(self.plan.reranked_queries)
        run = self._ranked(student, f"{self._prefix}-{BEST.name}-vectors", chosen)
        rankings = {query: sorted(hits.items(), key=lambda hit: -hit[1]) for query, hits in run.items()}
        inputs = {"encoder": student, "teacher": self.teacher, "queries": self.data.made["test"]}
        draft = self.data.store.draft("report", f"{self._prefix}-reranked", step="benchmark", inputs=inputs, config={"queries": len(chosen)})  # fmt: skip
        made = draft.published
        if made is None:
            with draft:
                found = rerank_all(
                    rankings, {query: self.data.texts[query] for query in chosen}, top=DEPTH, teacher=self.teacher, corpus=self.data.corpus,
                    draft=draft, resources=Resources(workers=1), progress=progress,
                )  # fmt: skip
                draft.write_json("places.json", self._places({query: dict(hits) for query, hits in found.items()}))
                made = draft.publish()
        places: list[int] = made.json("places.json")
        return places

    def _ranked(self, encoder: Artefact, name: str, queries: list[str]) -> Run:
        """First passages of test queries, by exact search of the whole collection."""
        vectors = self.data.systems_vectors(encoder, name)
        limit_threads(available_cores())
        ids, scores = DenseSearch.open(encoder, vectors).search([self.data.texts[query] for query in queries], DEPTH)
        return {query: dict(zip(own, map(float, values), strict=True)) for query, own, values in zip(queries, ids, scores, strict=True)}  # fmt: skip

    def _places(self, run: Run) -> list[int]:
        qrels = self.data.tests.qrels
        return list(places_of(run, {query: qrels[query] for query in run}).values())

    # What was filtered ------------------------------------------------------------------------------------------------------

    def filtered(self) -> Filtered:
        """Of the negatives that the best row's filter dropped and kept: duplicates and siblings of the positive."""
        pairs = self._negatives()
        ids = sorted({name for pair in pairs for name in pair})
        text = dict(zip(ids, self.data.passages.texts(ids), strict=True))
        found = {side: dict.fromkeys(("total", "duplicate", "sibling", "either"), 0) for side in (True, False)}
        # A query's id is its package's name, which is its positive's id too.
        for (query, passage), dropped in pairs.items():
            synopses = self.data.synopses.get(query), self.data.synopses.get(passage)
            duplicate, sibling = is_duplicate((text[query], text[passage]), synopses), is_sibling(query, passage)
            holds = {"total": True, "duplicate": duplicate, "sibling": sibling, "either": duplicate or sibling}
            for kind, value in holds.items():
                found[dropped][kind] += value
        return Filtered(dropped=found[True], kept=found[False])

    def _negatives(self) -> dict[tuple[str, str], bool]:
        """(query, passage) -> dropped, of every negative that the filter judged, over all rounds."""
        queries = QuerySet.open(self.data.taught)
        settings = FilterSettings.model_validate({"method": BEST.filter})
        found: dict[tuple[str, str], bool] = {}
        earlier: list[dict[str, Any]] = []
        for one in self.rounds(BEST):
            judgements = Judgements.open(one.judgements)
            outcome = false_negative_filter(judgements, queries, settings, round_number=one.number, earlier=earlier)
            earlier = outcome.audit["thresholds"] if outcome.audit else []
            for group in judgements:
                relevant = set(queries.positives(group.query_id))
                for passage, dropped in zip(group.passage_ids, outcome(group).tolist(), strict=True):
                    if relevant and passage not in relevant:
                        found[group.query_id, passage] = found.get((group.query_id, passage), False) or dropped
        return found
