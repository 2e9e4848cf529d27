"""What an audit decides afterwards: who may teach, and what each judgement weighs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from retort.corpus.lookup import Passages
from retort.errors import ConfigError, IncompatibleError, InputError, PolicyError
from retort.models.fakes import tiny_cross_encoder
from retort.models.imports import teacher_artefact
from retort.models.judgements import Judgements
from retort.store import Artefact, Store
from retort.store.schemas import JUDGEMENT
from retort.teaching.audit_gate import AUDIT, TrustedTeacher, reliability_of, require_passed
from retort.teaching.fakes import SMALL_WORDS, FakeJudge, FakePassages, FakeQueries, publish_small_world
from retort.teaching.score import ScoreConfig, score
from retort.teaching.scorer import PartScorer, QueryTexts
from retort.teaching.trust import PairFacts, measure_reliability

World = dict[str, Artefact]


def publish_audit(
    store: Store, teacher: Artefact, *, passed: bool, whole: float = 0.9, name: str = "audit"
) -> Artefact:
    """An audit of one teacher."""
    facts = PairFacts(words=[4, 9], language=["en", "en"], section=["", ""])
    reliability = measure_reliability(facts, np.array([whole, whole]), np.arange(2), prior=20)
    entry = {
        "name": teacher.name,
        "digest": teacher.digest,
        "verdict": {"passed": passed, "why": "Unseen pair accuracy is 0.510; at least 0.700 is asked for."},
        "reliability": reliability.model_dump(mode="json"),
    }
    draft = store.draft("report", name, step="audit", inputs={"teachers.0": teacher}, config={"name": name})
    with draft:
        draft.write_json(AUDIT, {"teachers": [entry]})
        draft.write_bytes("audit.html", b"")
        return draft.publish(metrics={"passed": passed})


@pytest.fixture
def world(store: Store, tmp_path: Path) -> World:
    made = publish_small_world(store, passages=12, queries=8, per_part=4, depth=3)
    made["teacher"] = teacher_artefact(str(tiny_cross_encoder(tmp_path / "teacher", SMALL_WORDS)), store)
    return made


def config(world: World, **more: Any) -> ScoreConfig:
    return ScoreConfig.validated({**{role: artefact.uri for role, artefact in world.items()}, **more})


def test_only_a_teacher_that_passed_may_teach(store: Store, world: World) -> None:
    teacher = world["teacher"]
    require_passed(publish_audit(store, teacher, passed=True, name="good"), teacher.digest, teacher.name)
    bad = publish_audit(store, teacher, passed=False, name="bad")
    with pytest.raises(InputError, match=r"may not teach: it failed its audit report/bad.*is 0\.510.*audit\.html"):
        require_passed(bad, teacher.digest, teacher.name)
    with pytest.raises(InputError, match="is about teacher .*, and not about teacher other"):
        require_passed(bad, "f" * 64, "other")


def test_scoring_refuses_before_any_work(store: Store, world: World) -> None:
    bad = publish_audit(store, world["teacher"], passed=False)
    with pytest.raises(InputError, match="may not teach"):
        score(config(world, teacher_audit=bad.uri))
    assert not list(store.area.root.glob("judgements/*"))


def test_scoring_refuses_even_what_is_made_already(store: Store, world: World) -> None:
    bad = publish_audit(store, world["teacher"], passed=False)
    settings = config(world, teacher_audit=bad.uri)
    draft = store.draft(
        "judgements", "small", step="score", inputs={**world, "teacher_audit": bad}, config=settings.identity()
    )
    with draft:
        draft.write_bytes("part-00000.parquet", b"")
        draft.publish()
    with pytest.raises(InputError, match="may not teach"):
        score(settings)


def test_a_report_of_another_kind_is_no_audit(store: Store, world: World) -> None:
    draft = store.draft("report", "quality", step="evaluate", config={})
    with draft:
        draft.write_json("report.json", {})
        draft.publish()
    with pytest.raises(InputError, match="report of the step 'evaluate' and no audit"):
        score(config(world, teacher_audit="quality"))


def test_the_policy_is_asked_before_any_work(store: Store, world: World) -> None:
    with pytest.raises(PolicyError, match=r"teacher/teacher .*no known licence|corpus/small .*no known licence"):
        score(config(world, policy={"allowed_licences": ["MIT"]}))
    with pytest.raises(PolicyError, match="does not say whether it holds personal data"):
        score(config(world, policy={"no_personal_data": True}))
    assert not list(store.area.root.glob("judgements/*"))
    assert config(world, policy={"no_personal_data": True}).identity() == config(world).identity()


def test_other_judgements_need_an_audit_and_another_teacher(store: Store, world: World) -> None:
    with pytest.raises(ConfigError, match="name teacher_audit"):
        config(world, agree_with=["x"])
    good = publish_audit(store, world["teacher"], passed=True)
    draft = store.draft("judgements", "own", step="score", inputs=world, config={})
    with draft:
        draft.write_bytes("part-00000.parquet", b"")
        draft.publish()
    with pytest.raises(IncompatibleError, match="it would only agree with itself"):
        score(config(world, teacher_audit=good.uri, agree_with=["own"]))


def test_trust_comes_from_reliability_and_from_what_others_say(store: Store, world: World) -> None:
    audit = publish_audit(store, world["teacher"], passed=True, whole=0.9)
    reliability = reliability_of(audit, world["teacher"].digest, "t")
    passages = Passages.open(world["corpus"])
    pairs = [("q0", "p1"), ("q0", "p2"), ("q0", "p3")]
    alone = TrustedTeacher(reliability, {"q0": "en"}, passages)
    np.testing.assert_allclose(alone.weights(pairs, [3, 2, 1]), 0.8, atol=1e-6)
    draft = store.draft("judgements", "theirs", step="test", config={})
    rows = [
        {"query_id": "q0", "passage_id": p, "content_hash": "", "score": s, "window": 0, "trust": 1.0, "word_map": None}
        for p, s in (("p1", 3.0), ("p2", 1.0), ("p3", 2.0))
    ]
    with draft:
        draft.write_table("part-00000.parquet", pa.Table.from_pylist(rows, schema=JUDGEMENT))
        other = draft.publish()
    both = TrustedTeacher(reliability, {"q0": "en"}, passages, [Judgements.open(other)])
    np.testing.assert_allclose(both.weights(pairs, [3, 2, 1]), [0.8, 0, 0], atol=1e-6)
    unjudged = [("q1", "p1"), ("q1", "p2")]
    np.testing.assert_allclose(both.weights(unjudged, [1, 2]), 0.8, atol=1e-6)


def test_the_trust_is_written_beside_each_score(store: Store, world: World) -> None:
    class Half:
        def weights(self, pairs: Any, scores: Any) -> Any:
            return np.arange(len(pairs)) / 10 + np.array(scores) * 0

    candidates = world["candidates"]
    ids = candidates.table()["passage_id"].to_pylist()
    draft = store.draft("judgements", "j", step="test", config={})
    scorer = PartScorer(
        draft=draft, candidates=candidates, queries=QueryTexts(FakeQueries([f"q{i}" for i in range(8)], ["x"] * 8)),
        passages=FakePassages(dict.fromkeys(ids, "text") | {ids[1]: "boom"}), judge=FakeJudge(), trust=Half(),
    )  # fmt: skip
    with draft:
        scorer("part-00000.parquet")
        table = draft.read_table("part-00000.parquet")
    assert ids[1] not in table["passage_id"].to_pylist(), "quarantined"
    np.testing.assert_allclose(table["trust"].to_numpy(), np.arange(table.num_rows) / 10, rtol=1e-6)
