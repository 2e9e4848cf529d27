"""The whole comparison on a small world: four systems, real indexes, real (tiny) models."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.evaluation import rerank
from retort.evaluation.evaluate import EvaluateConfig, evaluate
from retort.evaluation.tables import example_lines, report_table
from retort.indexing.build import IndexConfig, index
from retort.indexing.embed import EmbedConfig, embed
from retort.metrics.measures import evaluate as measure
from retort.metrics.measures import mean
from retort.models.cross_encoder import CrossEncoder
from retort.models.dual_encoder import DualEncoder
from retort.models.fakes import tiny_cross_encoder, tiny_encoder
from retort.models.imports import teacher_artefact
from retort.store import Artefact, open_store
from retort.teaching.fakes import SMALL_WORDS, publish_small_world

RESOURCES = {"workers": 1, "threads": 1}


@dataclass(frozen=True)
class World:
    """A store with a corpus, queries, two tiny encoders with their indexes, and a tiny teacher."""

    store: str
    corpus: Artefact
    queries: Artefact
    names: dict[str, str]

    def config(self, **more: Any) -> EvaluateConfig:
        """All four systems, quickly."""
        common = {
            "store": self.store, "corpus": self.corpus.uri, "queries": self.queries.uri, "resources": RESOURCES, "rerank_top": 5,
            "resamples": 200, "latency_queries": 5, "name": "small",
        }  # fmt: skip
        return EvaluateConfig(**{**common, **self.names, **more})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("evaluate")
    uri = str(folder / "store")
    store = open_store(uri)
    made = publish_small_world(store, passages=120, queries=70)
    names: dict[str, str] = {}
    for role, seed in (("base", 0), ("student", 1)):
        encoder = tiny_encoder(folder / role, SMALL_WORDS, seed=seed)
        embeddings = embed(EmbedConfig(store=uri, corpus=made["corpus"].uri, encoder=str(encoder), resources=RESOURCES))
        built = index(IndexConfig(store=uri, embeddings=embeddings.uri, shards=2, name=role, resources=RESOURCES))
        names |= {f"{role}_encoder": embeddings.input("encoder").uri, f"{role}_index": built.uri}
    teacher = teacher_artefact(str(tiny_cross_encoder(folder / "teacher", SMALL_WORDS)), store)
    return World(uri, made["corpus"], made["queries"], {**names, "teacher": teacher.uri})


@pytest.fixture(scope="module")
def made(world: World) -> Artefact:
    return evaluate(world.config())


def rankings(report: Artefact, system: str) -> dict[str, list[tuple[str, float]]]:
    found: dict[str, list[tuple[str, float]]] = {}
    for row in report.table(f"run-{system}.parquet").to_pylist():
        ranking = found.setdefault(row["query_id"], [])
        ranking.append((row["passage_id"], row["score"]))
        assert row["rank"] == len(ranking)
    return found


def test_the_table_has_the_four_systems_and_says_what_their_runs_say(made: Artefact, world: World) -> None:
    report = made.json("report.json")
    assert [row["name"] for row in report["systems"]] == ["bm25", "base", "student", "teacher"]
    qrels = QuerySet.open(world.queries).qrels
    for row in report["systems"]:
        assert list(row) == ["name", "mrr@10", "ndcg@10", "recall@100", "ms_per_query", "index_bytes"]
        run = {query: dict(ranking) for query, ranking in rankings(made, row["name"]).items()}
        for name, values in measure(run, qrels).items():
            assert row[name] == pytest.approx(mean(values))
        assert row["ms_per_query"] > 0
    sizes = {row["name"]: row["index_bytes"] for row in report["systems"]}
    student = open_store(world.store).get(world.names["student_index"], "index")
    assert sizes["student"] == sizes["teacher"] == student.size_bytes
    assert sizes["bm25"] > 1000


def test_the_students_run_is_the_exact_ranking_of_its_vectors(made: Artefact, world: World) -> None:
    encoder = DualEncoder.load(open_store(world.store).get(world.names["student_encoder"], "encoder").local()).pack()
    passages, queries = Passages.open(world.corpus), QuerySet.open(world.queries)
    scores = encoder.encode(queries.texts, "query") @ encoder.encode(passages.texts(passages.ids), "passage").T
    run = rankings(made, "student")
    for place, query in enumerate(queries.ids):
        assert len(run[query]) == 100
        best = dict(zip(passages.ids, scores[place], strict=True))
        found = np.array([best[passage] for passage, _ in run[query]])
        # Stored vectors are float16: neighbours may change places, no more.
        assert np.abs(found - np.sort(scores[place])[::-1][:100]).max() < 2e-3
        assert np.abs(found - [score for _, score in run[query]]).max() < 2e-3


def test_the_teacher_reorders_the_students_first_passages_and_keeps_the_rest(made: Artefact, world: World) -> None:
    teacher = CrossEncoder.load(open_store(world.store).get(world.names["teacher"], "teacher").local())
    passages, queries = Passages.open(world.corpus), QuerySet.open(world.queries)
    student, found = rankings(made, "student"), rankings(made, "teacher")
    for query, text in zip(queries.ids, queries.texts, strict=True):
        first = [passage for passage, _ in student[query]]
        logits = dict(
            zip(first[:5], teacher.score([(text, passage) for passage in passages.texts(first[:5])]), strict=True)
        )
        assert set(first[:5]) == {passage for passage, _ in found[query][:5]}
        # In bfloat16, which some CPUs are faster in, a logit depends a little on the batch that it was computed in.
        assert [score for _, score in found[query][:5]] == pytest.approx(
            sorted(logits.values(), reverse=True), abs=1e-4 if teacher.precision == "fp32" else 2e-2
        )
        assert [passage for passage, _ in found[query][5:]] == first[5:]


def test_the_report_decides_explains_and_shows_examples(made: Artefact) -> None:
    report = made.json("report.json")
    assert report["verdict"]["serve"] in ("student", "base")
    assert report["verdict"]["split"] == "test"
    assert report["relevance"]["source"] == "user"
    assert len(report["examples"]) == 3
    assert all(len(example["hits"]) == 5 for example in report["examples"])
    assert {row["by"] for row in report["slices"]} == {"length"}
    assert made.manifest.metrics["serve"] == report["verdict"]["serve"]
    page = made.local("report.html").read_text()
    assert report["verdict"]["serve"] in page
    assert report_table(report).row_count == 4
    assert example_lines(report)
    scores = made.table("scores.parquet")
    assert scores.num_rows == 4 * 3 * 70
    assert not [path for path in made.area.folders() if path.startswith("_")], "scratch was left behind"


def test_a_second_run_finds_it_made(made: Artefact, world: World) -> None:
    assert evaluate(world.config(latency_queries=7)).digest == made.digest


def test_dev_queries_decide_where_they_are_given(world: World) -> None:
    report = evaluate(world.config(dev=world.queries.uri, name="dev", teacher=None)).json("report.json")
    assert report["verdict"]["split"] == "dev"
    assert [row["name"] for row in report["systems"]] == ["bm25", "base", "student"]


def test_a_sample_is_measured_and_said_so(world: World) -> None:
    report = evaluate(world.config(max_queries=10, name="sample", teacher=None)).json("report.json")
    assert (report["queries"]["count"], report["queries"]["available"]) == (10, 70)
    assert "random sample of 10 of 70" in " ".join(report["notes"])


def test_a_killed_re_ranking_goes_on_and_workers_give_the_same_run(
    made: Artefact, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second part fails; the next run, on two Ray workers, scores only what is missing."""

    class Killed(BaseException):
        pass

    scored: list[str] = []
    score = rerank.RerankWorker.__call__

    def fail_at_the_second(self: rerank.RerankWorker, part: str) -> dict[str, Any]:
        if len(scored) == 1:
            raise Killed
        scored.append(part)
        return score(self, part)

    config = world.config(seed=14, name="killed")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(rerank.RerankWorker, "__call__", fail_at_the_second)
        evaluate(config)
    went_through: list[list[str]] = []

    def watched(settings: Any, sizes: dict[str, float], resources: Any, progress: Any) -> None:
        went_through.append(list(sizes))
        rerank_parts(settings, sizes, resources, progress)

    from retort.evaluation import stages

    rerank_parts = stages.rerank_parts
    monkeypatch.setattr(stages, "rerank_parts", watched)
    again = evaluate(config.model_copy(update={"resources": config.resources.model_copy(update={"workers": 2})}))
    assert scored == ["00000"]
    assert went_through == [["00001", "00002"]]
    whole = rankings(made, "teacher")
    for query, ranking in rankings(again, "teacher").items():
        assert [passage for passage, _ in ranking] == [passage for passage, _ in whole[query]]
        assert [score for _, score in ranking] == pytest.approx([score for _, score in whole[query]], abs=1e-4)
    assert json.dumps(again.json("report.json"), allow_nan=False)
    assert Path(again.local("report.html")).stat().st_size > 10_000
