"""The audit without Ray: pairs, figures and page of real lists judged by known rules; what is refused before any work."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.errors import ConfigError, InputError, ModelError
from retort.models.fakes import FakeCrossEncoder, tiny_cross_encoder, tiny_encoder
from retort.models.imports import teacher_artefact
from retort.progress import QUIET
from retort.store import Artefact, Store
from retort.store.schemas import JUDGEMENT, QREL, QUERY
from retort.teaching.audit import AuditConfig, audit
from retort.teaching.audit_page import render_page
from retort.teaching.audit_pairs import (
    AuditWorker,
    Pairs,
    choose_queries,
    missing_scores,
    open_pairs,
    read_scores,
    write_pairs,
)  # fmt: skip
from retort.teaching.audit_report import TeacherView, assemble
from retort.teaching.audit_verdict import Thresholds
from retort.teaching.fakes import SMALL_WORDS, publish_small_world
from retort.teaching.reuse import pair_hash
from retort.teaching.score import ScoreConfig
from retort.teaching.scorer import PairScorer, QueryTexts, TeacherJudge, distinct_pairs
from retort.teaching.trained_on import TRAINED_ON, trained_on, trained_on_table

World = dict[str, Artefact]


@pytest.fixture
def world(store: Store) -> World:
    return publish_small_world(store, passages=60, queries=48, per_part=16, depth=6)


@pytest.fixture
def pairs(world: World) -> Pairs:
    chosen = choose_queries(world["candidates"], QuerySet.open(world["queries"]), 500, 13)
    return open_pairs(world["candidates"], chosen, world["corpus"])


def publish_teacher(store: Store, world: World, name: str, trained: list[str], held_out: list[str]) -> Artefact:
    """A teacher that says what it was trained on; it has no weights."""
    inputs = {role: world[role] for role in ("queries", "candidates", "corpus")}
    draft = store.draft("teacher", name, step="train-teacher", inputs=inputs, config={"name": name})
    with draft:
        draft.write_table(TRAINED_ON, trained_on_table(trained, held_out))
        return draft.publish(licences=["MIT"], personal_data="none")


def report_of(world: World, pairs: Pairs, views: list[TeacherView], **thresholds: Any) -> dict[str, Any]:
    with QUIET.task("measuring") as task:
        return assemble(views, pairs, world, thresholds=Thresholds(**thresholds), shrinkage=20, seed=13, task=task)


def test_pairs_are_the_distinct_candidates_of_labelled_queries(world: World, pairs: Pairs) -> None:
    assert len(pairs.queries) == 48 and len(pairs) == 48 * 6
    assert int(pairs.relevant.sum()) == 48 and pairs.search == "dense"
    assert pairs.search_rank.min() == 1 and pairs.search_rank.max() == 6
    assert (np.diff(pairs.query) >= 0).all()
    some = pairs.only({"q3", "q7"})
    assert some.queries.ids == ["q3", "q7"] and set(some.query.tolist()) == {0, 1} and len(some.facts.words) == 12


def test_a_sample_of_queries_depends_on_seed_and_id_alone(world: World) -> None:
    queries = QuerySet.open(world["queries"])
    few = choose_queries(world["candidates"], queries, 10, 13).ids
    more = choose_queries(world["candidates"], queries, 20, 13).ids
    assert len(few) == 10 and set(few) < set(more)


def test_a_worker_scores_its_parts_and_a_killed_audit_goes_on(store: Store, world: World, pairs: Pairs) -> None:
    draft = store.draft("report", "a", step="test", config={})
    judge = TeacherJudge(FakeCrossEncoder(), word_level=False, top_k=1, layers=(), heads=(), token_budget=None)
    texts = {"queries": QueryTexts(pairs.queries), "passages": Passages.open(world["corpus"])}
    worker = AuditWorker(draft, 0, PairScorer(judge=judge, **texts))
    with draft:
        sizes = write_pairs(draft, "given", pairs)
        assert sum(sizes.values()) == len(pairs) and len(sizes) == 2
        first, second = sizes
        assert worker(first)["pairs"] == sizes[first]
        assert list(missing_scores(draft, 0, sizes)) == [second]
        worker(second)
        scores = read_scores(draft, 0, list(sizes), pairs)
    wanted = FakeCrossEncoder().score(
        [
            (pairs.queries.texts[q], t)
            for q, t in zip(pairs.query, pairs.passages.texts([p for _, p in pairs.ids]), strict=True)
        ]
    )
    assert scores.tolist() == wanted.tolist()


def test_a_teacher_that_learnt_by_heart_is_found_out(store: Store, world: World, pairs: Pairs) -> None:
    ids = pairs.queries.ids
    teacher = publish_teacher(store, world, "by-heart", ids[:24], ids[24:30])
    trained = trained_on(teacher)
    assert trained is not None and trained.ids == ids[:24] and len(trained.held_out_texts) == 6
    noise = np.random.default_rng(1).normal(size=len(pairs))
    known = np.array([query in set(ids[:24]) for query, _ in pairs.ids])
    scores = np.where(known & pairs.relevant, 9.0, noise)
    own = pairs.only(set(ids[:24]))
    seen = (own, scores[[query in set(own.queries.ids) for query, _ in pairs.ids]])
    report = report_of(world, pairs, [TeacherView(teacher, trained, scores, seen)], least_queries=10)
    (entry,) = report["teachers"]
    assert entry["leaked"] >= 24 and entry["stopped_by"] <= 6 and entry["trained_on"] == 24
    assert entry["seen"]["pair_accuracy"]["mean"] == 1.0
    assert entry["unseen"]["pair_accuracy"]["mean"] < 0.65 and entry["unseen"]["queries"] == 48 - entry["leaked"]
    assert entry["gap"]["low"] > 0.2 and not entry["verdict"]["passed"] and "Gap between" in entry["verdict"]["why"]


def test_a_bias_for_long_passages_is_found(store: Store, world: World, pairs: Pairs) -> None:
    teacher = publish_teacher(store, world, "long", [], [])
    words = np.array(pairs.facts.words, dtype=np.float64)
    report = report_of(world, pairs, [TeacherView(teacher, trained_on(teacher), words, None)])
    (entry,) = report["teachers"]
    assert entry["length_correlation"]["mean"] > 0.9
    assert "Correlation of score and length" in entry["verdict"]["why"]
    lengths = [row for row in entry["slices"] if row["by"] == "length"]
    assert len(lengths) == 4 and lengths[0]["other"] < lengths[-1]["other"]
    assert entry["gap"] is None and "was not asked" in entry["gap_missing"]


def test_the_widest_disagreements_are_shown_with_texts(store: Store, world: World, pairs: Pairs) -> None:
    scores = pairs.relevant.astype(float) * 3 + np.random.default_rng(2).normal(size=len(pairs)) * 0.01
    wrong = int(np.flatnonzero(~pairs.relevant & (pairs.query == 5))[0])
    scores[wrong] = 50.0
    views = [
        TeacherView(publish_teacher(store, world, name, [], []), None, one, None)
        for name, one in (("a", scores), ("b", scores.copy()), ("c", pairs.relevant.astype(float)))
    ]
    report = report_of(world, pairs, views)
    first = report["teachers"][0]["disagreements"][0]
    assert (first["kind"], first["query_id"], first["agreeing"], first["others"]) == ("missed", "q5", 1, 2)
    assert (
        first["above"]["passage_id"] == pairs.ids[wrong][1]
        and not first["above"]["relevant"]
        and first["above"]["text"]
    )
    assert first["below"]["relevant"] and first["margin"] == pytest.approx(47, abs=0.1)
    assert report["alike"][0]["share"] == 1.0
    assert report["choice"] == "c", "the one without a mistake"


def test_pairs_without_a_score_are_left_out_and_counted(store: Store, world: World, pairs: Pairs) -> None:
    scores = pairs.relevant.astype(float)
    scores[3] = np.nan
    teacher = publish_teacher(store, world, "a", [], [])
    (entry,) = report_of(world, pairs, [TeacherView(teacher, None, scores, None)])["teachers"]
    assert entry["unseen"]["unread"] == 1 and entry["unseen"]["pair_accuracy"]["mean"] == 1.0
    assert entry["gap_missing"].startswith("its training queries are not known")


class Reader(HTMLParser):
    """Checks that every element that opens closes, and collects ids and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "br", "link"}:
            self.open.append(tag)
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"


@pytest.mark.parametrize("teachers", [1, 3])
def test_the_page_is_well_formed_and_asks_nothing_of_the_network(
    store: Store, world: World, pairs: Pairs, teachers: int
) -> None:
    generator = np.random.default_rng(7)
    views = [
        TeacherView(
            publish_teacher(store, world, f"t{i}.<b>", [], []) if i else publish_teacher(store, world, "plain", [], []),
            None,
            pairs.relevant * 1.0 + generator.normal(size=len(pairs)),
            (pairs, generator.normal(size=len(pairs))) if i else None,
        )
        for i in range(teachers)
    ] if teachers == 1 else [
        TeacherView(publish_teacher(store, world, f"t{i}", [], []), None, pairs.relevant + generator.normal(size=len(pairs)), None)
        for i in range(teachers)
    ]  # fmt: skip
    report = report_of(world, pairs, views)
    report["teachers"][0]["disagreements"][0]["above"]["text"] = "<script>alert(1)</script>"
    page = render_page(report)
    reader = Reader()
    reader.feed(page)
    assert reader.open == [] and len(reader.ids) == len(set(reader.ids))
    assert all(address.startswith("#") for address in reader.addresses)
    assert not re.search(r"@import|url\((?!#)|<script", page) and "&lt;script&gt;" in page
    for text in ("The checks", "Agreement with the labels", "Calibration", "Passage length", "may not teach"):
        assert text in page


def config(world: World, *teachers: str, **more: Any) -> AuditConfig:
    names = {role: world[role].uri for role in ("corpus", "queries", "candidates")}
    return AuditConfig.validated({**names, "teachers": list(teachers), **more})


@pytest.fixture
def teacher(tmp_path: Any, store: Store) -> str:
    return teacher_artefact(str(tiny_cross_encoder(tmp_path / "teacher", SMALL_WORDS)), store).uri


def test_no_teacher_or_the_same_twice_is_refused(world: World, teacher: str) -> None:
    with pytest.raises(ConfigError, match="no teacher is named"):
        config(world)
    with pytest.raises(ConfigError, match="the same teacher twice"):
        audit(config(world, teacher, teacher))


def test_a_bi_encoder_is_no_teacher(world: World, tmp_path: Any) -> None:
    with pytest.raises(ModelError, match="bi-encoder"):
        audit(config(world, str(tiny_encoder(tmp_path / "encoder", SMALL_WORDS))))


def test_queries_without_labels_cannot_be_audited_on(
    store: Store, world: World, teacher: str, publish_candidates: Callable[..., Artefact]
) -> None:
    draft = store.draft("queries", "unlabelled", step="test", inputs={"corpus": world["corpus"]}, config={})
    row = {"query_id": "u", "text": "amber", "lang": "en", "origin": "user", "fields": "{}"}
    with draft:
        draft.write_table("queries.parquet", pa.Table.from_pylist([row], schema=QUERY))
        draft.write_table("qrels.parquet", pa.Table.from_pylist([], schema=QREL))
        queries = draft.publish()
    candidates = publish_candidates([[("u", "p1", "bm25", 1)]], name="u")
    with pytest.raises(InputError, match="0 queries of .*needs two at least"):
        audit(config({**world, "queries": queries, "candidates": candidates}, teacher))


def test_candidates_that_name_absent_ids_are_refused(
    world: World, teacher: str, publish_candidates: Callable[..., Artefact]
) -> None:
    candidates = publish_candidates([[("q1", "nowhere", "bm25", 1)]])
    with pytest.raises(InputError, match="names 1 passages that the corpus does not have: 'nowhere'"):
        audit(config({**world, "candidates": candidates}, teacher))


def judged_before(store: Store, world: World, teacher: str, **fields: Any) -> Artefact:
    """Judgements of all candidates, every score 7."""
    inputs = {**world, "teacher": store.get(teacher)}
    names = {role: artefact.uri for role, artefact in inputs.items()}
    settings = ScoreConfig.validated({**names, "word_level": False, "precision": "fp32", **fields})
    queries, passages = QuerySet.open(world["queries"]), Passages.open(world["corpus"])
    with store.draft("judgements", "before", step="score", inputs=inputs, config=settings.identity()) as draft:
        for part in world["candidates"].parts():
            ids = distinct_pairs(world["candidates"].part(part))
            texts = zip(
                (queries.texts[queries.positions[q]] for q, _ in ids), passages.texts([p for _, p in ids]), strict=True
            )
            rows = [
                {"query_id": q, "passage_id": p, "content_hash": pair_hash(*pair), "score": 7.0, "window": 0, "trust": 1.0}
                for (q, p), pair in zip(ids, texts, strict=True)
            ]  # fmt: skip
            draft.write_table(part, pa.Table.from_pylist(rows, schema=JUDGEMENT))
        return draft.publish()


@pytest.mark.parametrize(
    ("fields", "reused"),
    [
        ({}, 48 * 6),
        ({"backend": "onnx"}, 48 * 6),
        ({"backend": "onnx-int8"}, 0),
        ({"service": {"url": "http://x/rerank"}, "word_level": True}, 0),
    ],
)
def test_only_scores_that_the_teacher_itself_gave_are_taken_over(
    store: Store, world: World, teacher: str, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], reused: int
) -> None:
    def in_turn(worker: Any, settings: Any, parts: Any, *_: Any, **__: Any) -> list[dict[str, Any]]:
        made = worker(**settings)
        return [made(part) for part in parts]

    monkeypatch.setattr("retort.runtime.connecting.connected", nullcontext)
    monkeypatch.setattr("retort.teaching.stages.map_parts", in_turn)
    judged_before(store, world, teacher, **fields)
    assert audit(config(world, teacher, precision="fp32")).metrics["reused"] == reused


def test_enforcing_and_speed_leave_the_key_alone(world: World) -> None:
    plain = config(world, "x").identity()
    assert config(world, "x", enforce=True, reuse=False, token_budget=4096).identity() == plain
    assert config(world, "x", thresholds={"largest_gap": 0.2}).identity() != plain


def test_a_wrong_threshold_is_named(world: World) -> None:
    with pytest.raises(ConfigError, match=r"thresholds\.largest_gap"):
        config(world, "x", thresholds={"largest_gap": 3})
