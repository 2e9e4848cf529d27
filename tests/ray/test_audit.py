"""The audit on Ray Data: two teachers compared, the better one chosen, its trust written, the worse one refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.errors import InputError
from retort.models.cross_encoder import CrossEncoder
from retort.models.fakes import tiny_cross_encoder, tiny_encoder
from retort.models.imports import teacher_artefact
from retort.store import Artefact, Store, open_store
from retort.teaching.audit import AuditConfig, audit
from retort.teaching.audit_gate import reliability_of
from retort.teaching.fakes import SMALL_WORDS, publish_small_world
from retort.teaching.pair_facts import read_facts
from retort.teaching.score import ScoreConfig, score
from retort.teaching.train import TrainTeacherConfig, train_teacher
from retort.teaching.trained_on import trained_on


class Quiet:
    """Progress that keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Quiet]:
        yield self

    def update(self, advance: float = 1, *, note: str | None = None) -> None:
        pass

    def say(self, message: str) -> None:
        self.said.append(message)


LENIENT = {
    "least_queries": 8, "least_pair_accuracy": 0.6, "largest_gap": 1.0, "largest_loss_to_search": None, "largest_ece": None,
    "largest_length_correlation": None, "largest_slice_loss": None,
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """A store with a teacher that was trained, and one that was not."""

    store: str
    made: dict[str, Artefact]
    trained: Artefact
    random: Artefact

    def audit(self, *teachers: Artefact, limits: dict[str, Any] | None = None, **more: Any) -> AuditConfig:
        return AuditConfig(
            store=self.store, teachers=tuple(teacher.uri for teacher in teachers), corpus="small", queries="small",
            candidates="small", thresholds={**LENIENT, **(limits or {})}, precision="fp32", resources={"workers": 1, "threads": 1}, **more,
        )  # fmt: skip

    def score(self, teacher: Artefact, **more: Any) -> ScoreConfig:
        return ScoreConfig(
            store=self.store, teacher=teacher.uri, corpus="small", queries="small", candidates="small", word_level=False,
            precision="fp32", resources={"workers": 1, "threads": 1}, **more,
        )  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A teacher trained on half of the small world's queries, and a random one."""
    folder: Path = tmp_path_factory.mktemp("world")
    store = open_store(str(folder / "store"))
    made = publish_small_world(store, passages=60, queries=48, per_part=8, depth=6)
    _publish_half(made)
    tiny_encoder(folder / "base", SMALL_WORDS)
    trained = train_teacher(
        TrainTeacherConfig(
            store=store.uri,
            base=str(folder / "base"),
            corpus="small",
            queries="half",
            candidates="half",
            epochs=8,
            negatives=3,
            learning_rate=2e-3,
            head_learning_rate=2e-3,
            max_tokens=48,
            frozen=(),
            precision="fp32",
            patience=9,
            resources={"workers": 1, "threads": 1},
            name="trained",
        )
    )
    tiny_cross_encoder(folder / "random", SMALL_WORDS, seed=4)
    random = teacher_artefact(str(folder / "random"), store)
    return World(store.uri, made, trained, random)


def _publish_half(made: dict[str, Artefact]) -> None:
    """The first half of the queries and their candidates, under a name of their own."""
    store = Store(made["corpus"].store_area())
    with store.draft("queries", "half", step="test", inputs={"corpus": made["corpus"]}, config={}) as draft:
        for path in ("queries.parquet", "qrels.parquet"):
            draft.write_table(path, made["queries"].part(path).slice(0, 24))
        queries = draft.publish()
    with store.draft("candidates", "half", step="test", inputs={"corpus": made["corpus"], "queries": queries}) as draft:
        for part in made["candidates"].parts()[:3]:
            draft.write_table(part, made["candidates"].part(part))
        draft.publish()


def test_what_a_teacher_was_trained_on_is_written_beside_it(world: World) -> None:
    trained = trained_on(world.trained)
    assert trained is not None
    held_out = world.trained.metrics["held_out_queries"]
    assert len(trained.ids) == world.trained.metrics["training_queries"] == 24 - held_out
    assert trained_on(world.random) is None


def test_teachers_are_compared_and_the_page_is_there_even_where_the_job_fails(world: World) -> None:
    teachers = (world.trained, world.random)
    with pytest.raises(
        InputError, match=r"No teacher passed the audit\. trained: Unseen pair accuracy is .* at least 1\.000"
    ):
        audit(world.audit(*teachers, limits={"least_pair_accuracy": 1.0}, enforce=True, name="strict-one"))
    published = open_store(world.store).get("strict-one", "report")
    assert {"audit.json", "audit.html"} <= set(published.files()) and not published.metrics["passed"]

    report = audit(world.audit(*teachers, limits={"least_pair_accuracy": 0.0}, enforce=True), watch := Quiet())
    assert report.kind == "report" and report.metrics["passed"] and report.manifest.step == "audit"
    assert {record.role for record in report.manifest.inputs} == {
        "teachers.0", "teachers.1", "corpus", "queries", "candidates",
    }  # fmt: skip
    found = report.json("audit.json")
    trained, random = found["teachers"]
    assert (trained["name"], random["name"]) == ("trained", "random") and len(found["alike"]) == 1
    assert trained["trained_on"] == 23 and 23 <= trained["leaked"] <= 30
    assert trained["unseen"]["queries"] == 48 - trained["leaked"] and trained["seen"]["queries"] == 23
    assert trained["seen"]["pair_accuracy"]["mean"] > 0.6 and trained["gap"] is not None
    assert random["unseen"]["queries"] == 48 and random["gap"] is None and random["seen"] is None
    assert [line.split(".")[0] for line in watch.said] == ["trained: passed", "random: passed"]


def test_the_figures_are_those_of_the_teachers_own_logits(world: World) -> None:
    report = audit(world.audit(world.random, name="one"))
    entry = report.json("audit.json")["teachers"][0]
    queries, passages = QuerySet.open(world.made["queries"]), Passages.open(world.made["corpus"])
    rows = list(
        dict.fromkeys(
            zip(
                *(world.made["candidates"].table()[name].to_pylist() for name in ("query_id", "passage_id")),
                strict=True,
            )
        )
    )
    teacher = CrossEncoder.load(world.random.local(), precision="fp32")
    texts = [(queries.texts[queries.positions[q]], passages.texts([p])[0]) for q, p in rows]
    logits = dict(zip(rows, teacher.score(texts).tolist(), strict=True))
    shares = []
    for query in queries.ids:
        own = {p: logit for (q, p), logit in logits.items() if q == query}
        positive = queries.positives(query)[0]
        shares.append(np.mean([own[positive] > other for p, other in own.items() if p != positive]))
    assert entry["unseen"]["pair_accuracy"]["mean"] == pytest.approx(float(np.mean(shares)), abs=0.005)


def test_scoring_weights_what_the_audit_measured_and_refuses_who_failed(world: World) -> None:
    passed = audit(world.audit(world.random, limits={"least_pair_accuracy": 0.0}, name="lenient"))
    judged = score(world.score(world.random, teacher_audit=passed.uri))
    table = judged.table()
    pairs = list(zip(table["query_id"].to_pylist(), table["passage_id"].to_pylist(), strict=True))
    queries = QuerySet.open(world.made["queries"])
    facts = read_facts(pairs, dict(zip(queries.ids, queries.langs, strict=True)), Passages.open(world.made["corpus"]))
    wanted = reliability_of(passed, world.random.digest, "random").trust(facts)
    np.testing.assert_allclose(table["trust"].to_numpy(), wanted, atol=1e-6)
    assert judged.metrics["mean_trust"] == pytest.approx(float(wanted.mean()), abs=1e-3)
    assert "teacher_audit" in {record.role for record in judged.manifest.inputs}

    # Those judgements are used again by the next audit, whatever their trust.
    again = audit(world.audit(world.random, name="again", max_queries=40))
    assert again.metrics["reused"] == 40 * 6

    strict = audit(world.audit(world.random, limits={"least_pair_accuracy": 1.0}, name="strict"))
    with pytest.raises(InputError, match="may not teach: it failed its audit report/strict"):
        score(world.score(world.random, teacher_audit=strict.uri))
    with pytest.raises(InputError, match="is about random"):
        score(world.score(world.trained, teacher_audit=passed.uri))
