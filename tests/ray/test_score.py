"""Scoring on Ray Data: right numbers, and the same digest whatever is killed on the way."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from tests.rerank_desk import Desk
from tests.watch import Watch

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.errors import IncompatibleError, InputError
from retort.models.cross_encoder import CrossEncoder
from retort.models.fakes import tiny_cross_encoder
from retort.models.imports import teacher_artefact
from retort.models.judgements import Judgements
from retort.models.word_maps import WordMap
from retort.store import Artefact, Store, open_store
from retort.teaching import stages
from retort.teaching.fakes import SMALL_WORDS, publish_small_world
from retort.teaching.score import ScoreConfig, score


@dataclass(frozen=True)
class World:
    """A store with a small corpus, candidates in twelve parts, a teacher, and the judgements of an unbroken run."""

    folder: Path
    made: dict[str, Artefact]
    judgements: Artefact

    def config(self, store: str | None = None, **more: Any) -> ScoreConfig:
        """What the unbroken run was made with; `store` names a copy of the store without judgements."""
        names = {role: f"{artefact.kind}/{artefact.name}" for role, artefact in self.made.items()}
        where = store or str(self.folder / "store")
        return ScoreConfig(**{**names, "store": where, "resources": {"workers": 1, "threads": 1}, **more})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Made once, with one unbroken run."""
    folder = tmp_path_factory.mktemp("world")
    store = open_store(str(folder / "store"))
    made = publish_small_world(store, passages=60, queries=48, per_part=4, depth=8)
    tiny_cross_encoder(folder / "teacher", SMALL_WORDS)
    made["teacher"] = teacher_artefact(str(folder / "teacher"), store)
    shutil.copytree(folder / "store", folder / "empty")
    without = World(folder, made, made["corpus"])
    return replace(without, judgements=score(without.config()))


@pytest.fixture
def other_store(world: World, tmp_path: Path) -> str:
    """The same artefacts in another store, where nothing is judged yet."""
    shutil.copytree(world.folder / "empty", tmp_path / "other")
    return str(tmp_path / "other")


def test_every_pair_gets_the_teachers_own_logit_and_map(world: World) -> None:
    judgements, candidates = world.judgements, world.made["candidates"]
    assert judgements.parts() == candidates.parts() and len(judgements.parts()) == 12
    table, wanted = judgements.table(), candidates.table()
    assert table["query_id"].equals(wanted["query_id"]) and table["passage_id"].equals(wanted["passage_id"])
    assert judgements.metrics["quarantined"] == 0 and judgements.metrics["pairs"] == table.num_rows == 384

    teacher = CrossEncoder.load(world.made["teacher"].local())
    queries, passages = QuerySet.open(world.made["queries"]), Passages.open(world.made["corpus"])
    groups = Judgements.open(judgements)
    assert len(groups) == 48 and groups.pairs == 384
    group = groups.group("q7")
    pairs = [(queries.texts[queries.positions["q7"]], passage) for passage in passages.texts(group.passage_ids)]
    expected = teacher.judge(pairs)
    np.testing.assert_allclose(group.scores, expected.scores, atol=1e-5)
    assert expected.word_maps is not None
    for stored, own in zip(group.word_maps, expected.word_maps, strict=True):
        assert stored is not None
        np.testing.assert_allclose(WordMap.from_bytes(stored).dense()[0], own.dense()[0], atol=0.05)
    assert score(world.config()).key == judgements.key


def test_the_word_level_can_be_off(world: World) -> None:
    off = score(world.config(word_level="off"))
    assert set(off.table()["word_map"].to_pylist()) == {None}


def test_a_service_gives_the_sentence_level_and_its_cost_is_counted(world: World, monkeypatch) -> None:
    monkeypatch.setenv("RETORT_RERANK_KEY", "very-private")
    desk = Desk()
    desk.plan = [(429, {"retry-after": "0"})]
    service = {"url": desk.url, "requests_per_minute": 1e6, "price_per_request": 0.25}
    try:
        made = score(world.config(teacher=None, service=service, word_level=False, name="by-service"))
    finally:
        desk.close()
    texts = Passages.open(world.made["corpus"])
    for part in made.parts():
        for row in made.part(part).to_pylist():
            share = len(texts.texts([row["passage_id"]])[0]) / 100
            assert np.isclose(row["score"], np.log(share / (1 - share)), atol=1e-4) and row["word_map"] is None
    assert made.metrics["service_retries"] == 1
    assert made.metrics["service_cost"] == 0.25 * len(desk.seen) == 0.25 * made.metrics["service_requests"]
    assert "very-private" not in str(made.manifest.model_dump()) and set(desk.keys) == {"Bearer very-private"}


def test_earlier_scores_are_taken_over_where_they_mean_the_same(world: World, other_store: str) -> None:
    with pytest.raises(IncompatibleError, match=r"other settings \(top_k\)"):
        score(world.config(reuse=world.judgements.uri, top_k=3))
    assert world.judgements.metrics["word_layers"] == [0], (
        "in the last of two the classifier reads its first token alone"
    )
    with pytest.raises(IncompatibleError, match=r"other settings \(layers\)"):
        score(world.config(reuse=world.judgements.uri, layers=(1,)))
    again = score(world.config(other_store, reuse=world.judgements.uri))
    assert again.metrics["reused"] == again.metrics["pairs"] == 384
    assert again.digest == world.judgements.digest


class SlowActor(stages.ScoringActor):
    """Leaves a middle to be killed in."""

    def __call__(self, part: str) -> dict[str, Any]:
        time.sleep(0.3)
        return super().__call__(part)


def test_a_killed_actor_loses_nothing_and_doubles_nothing(
    world: World, other_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "ScoringActor", SlowActor)
    killed: list[int] = []

    def kill_once() -> None:
        if not killed:
            assert len(list(Path(other_store).glob("judgements/*/part-*.parquet"))) < 11, "it was at work"
            for process in psutil.Process().children(recursive=True):
                if "MapWorker" in " ".join(process.cmdline()):
                    killed.append(process.pid)
                    process.kill()

    broken = score(world.config(other_store), Watch(kill_once))
    assert killed
    assert broken.digest == world.judgements.digest
    assert broken.manifest.rows == world.judgements.manifest.rows


DRIVER = """
import sys, time
import retort.teaching.stages as stages
from retort.teaching.score import ScoreConfig, score

class Slow(stages.ScoringActor):
    def __call__(self, part):
        time.sleep(0.3)  # so that there is a middle to be killed in
        return super().__call__(part)

stages.ScoringActor = Slow
score(ScoreConfig.model_validate_json(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_killed_driver_is_gone_on_from_with_the_same_digest(world: World, other_store: str) -> None:
    settings = world.config(other_store)
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, settings.model_dump_json()], start_new_session=True)

    def parts() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in Path(other_store).glob("judgements/*/part-*.parquet")}

    deadline = time.monotonic() + 200
    while len(parts()) < 3:
        assert driver.poll() is None, "the driver ended before it could be killed"
        assert time.monotonic() < deadline, "no part was judged in time"
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = parts()
    assert 3 <= len(before) < 12
    assert not list(Path(other_store).glob("judgements/*/manifest.json"))

    watch = Watch(lambda: None)
    finished = score(settings, watch)
    assert finished.digest == world.judgements.digest
    assert any("Going on" in line for line in watch.said)
    assert all(parts()[name] == made for name, made in before.items()), "complete parts are not done again"


def test_unreadable_texts_are_set_apart_with_a_warning_and_fail_over_the_threshold(
    world: World, other_store: str
) -> None:
    poisoned = _poison(open_store(other_store), "p3").uri
    with pytest.raises(InputError, match=r"\d+ of 384 pairs could not be judged.*quarantine_threshold=0"):
        score(world.config(other_store, corpus=poisoned, quarantine_threshold=0))
    watch = Watch(lambda: None)
    judgements = score(world.config(other_store, corpus=poisoned, quarantine_threshold=0.2), watch)
    assert "p3" not in judgements.table()["passage_id"].to_pylist()
    apart = judgements.table("quarantine-*.parquet")
    assert set(apart["passage_id"].to_pylist()) == {"p3"} and "passage:" in apart["reason"][0].as_py()
    assert judgements.metrics["quarantined"] == apart.num_rows
    assert any("Warning" in line for line in watch.said)


def _poison(store: Store, passage_id: str) -> Artefact:
    """Publish the corpus again with bytes in one text that are not UTF-8."""
    corpus = store.get("small", "corpus")
    table = corpus.part("part-00000.parquet")
    at = table["passage_id"].to_pylist().index(passage_id)
    texts = [text.encode() for text in table["text"].to_pylist()]
    texts[at] = b"broken \xff text"
    raw = pa.array(texts, pa.binary())
    column = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    draft = store.draft("corpus", "poisoned", step="test", config={})
    with draft:
        draft.write_table(
            "part-00000.parquet",
            table.set_column(table.schema.get_field_index("text"), table.schema.field("text"), column),
        )
        return draft.publish(rows=table.num_rows)
