"""The step's config and its refusals, the feed, the card: what needs no Ray."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from tests.watch import Watch

from retort.distillation.card import CardFacts, model_card
from retort.distillation.course import State
from retort.distillation.distil import DistilConfig, _course, _earlier_thresholds, _final_state, distil
from retort.distillation.fakes import publish_judgements, small_course, small_dev_pool, small_training_set
from retort.distillation.feed import Feed
from retort.distillation.loop import DATA_FOLDER, teach_student
from retort.errors import ConfigError, IncompatibleError, InputError, PolicyError, StorageError
from retort.models.backend import pick_device, pick_precision
from retort.models.dual_encoder import DualEncoder
from retort.models.fakes import tiny_encoder
from retort.models.imports import encoder_artefact
from retort.runtime.loop import WorkerLink
from retort.store import Artefact, open_store
from retort.store.files import FileArea
from retort.teaching.fakes import SMALL_WORDS

World = dict[str, Artefact]
NEEDED = {"corpus": "small", "queries": "small", "judgements": "small"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"contrastive_weight": 0, "sentence_weight": 0, "word_weight": 0}, "all three loss weights are 0"),
        ({"filter": {"method": "fixed"}}, "filter.method"),
        ({"dev_candidates": "c"}, "dev_candidates are given without dev_queries"),
        ({"batch_queries": 2, "similar": 1, "resources": {"workers": 3}}, "fewer than the 3 workers"),
        ({"similar": 64}, "similar is 64, more than the 32"),
        ({"round": 2, "rounds": 2}, "round is 2 and rounds is 2; rounds are numbered from 0 to 1"),
        ({"sentence_los": "kl"}, "Did you mean 'sentence_loss'"),
    ],
)
def test_configs_that_cannot_work_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DistilConfig.validated({**NEEDED, **wrong})


def test_how_it_runs_does_not_change_what_is_made() -> None:
    plain = DistilConfig(**NEEDED).identity()
    other = DistilConfig(
        **NEEDED, chunk_tokens=999, checkpoint_minutes=1, resources={"workers": 4}, name="x"
    ).identity()
    assert plain == other != DistilConfig(**NEEDED, word_weight=0.25).identity()
    assert "rounds" not in plain and DistilConfig(**NEEDED, rounds=2).identity()["rounds"] == 2


def test_judgements_of_other_queries_are_refused(world: World, tmp_path: Path) -> None:
    draft = open_store().draft(
        "queries", "others", step="fake", inputs={"corpus": world["corpus"]}, config={"other": True}
    )
    with draft:
        draft.put_file("queries.parquet", world["queries"].local("queries.parquet"))
        draft.write_table("qrels.parquet", world["queries"].part("qrels.parquet").slice(0, 9))
        draft.publish()
    with pytest.raises(IncompatibleError, match=r"is about queries small .*, this run has others"):
        distil(DistilConfig(base=str(tmp_path / "base"), **{**NEEDED, "queries": "others"}))


def test_a_teacher_that_failed_its_audit_teaches_nobody(world: World, tmp_path: Path) -> None:
    store = open_store()
    teacher = world["corpus"]  # what judged is known by its digest alone
    draft = store.draft("judgements", "judged", step="fake", inputs={**world, "teacher": teacher}, config={})
    with draft:
        for part in world["judgements"].parts():
            draft.write_table(part, world["judgements"].part(part))
        draft.publish()
    entry = {"name": "t", "digest": teacher.digest, "verdict": {"passed": False, "why": "Its gap is too wide."}}
    with store.draft("report", "audited", step="audit", config={}) as audit:
        audit.write_json("audit.json", {"teachers": [entry]})
        audit.publish()
    needed = {**NEEDED, "base": str(tmp_path / "base"), "teacher_audit": "audited"}
    with pytest.raises(InputError, match=r"may not teach.*Its gap is too wide"):
        distil(DistilConfig(**{**needed, "judgements": "judged"}))
    with pytest.raises(IncompatibleError, match="does not say which teacher judged"):
        distil(DistilConfig(**needed))
    assert not store.list("encoder") or all(item.manifest.step != "distil" for item in store.list("encoder"))


def test_the_policy_is_asked_before_any_work(world: World, tmp_path: Path) -> None:
    settings = DistilConfig(base=str(tmp_path / "base"), policy={"allowed_licences": ["MIT"]}, **NEEDED)
    with pytest.raises(PolicyError, match=r"encoder/base .*no known licence; allowed are MIT"):
        distil(settings)


def test_a_batch_without_any_comparison_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to be compared with"):
        distil(DistilConfig(base=str(tmp_path / "base"), negatives=0, pool="own", **NEEDED))


@pytest.mark.parametrize(
    ("other", "said"),
    [({"prefixes": {"query": "query: "}}, r"lays \{'query': 'query: '"), ({"words": 7}, "has a vocabulary of")],
)
def test_a_start_that_cuts_texts_otherwise_than_the_base_is_refused(
    world: World, tmp_path: Path, other: dict[str, Any], said: str
) -> None:
    words = SMALL_WORDS[: other.get("words")]
    tiny_encoder(tmp_path / "start", words, prefixes=other.get("prefixes"))
    with pytest.raises(InputError, match=f"Start and base cut texts differently.*{said}"):
        distil(DistilConfig(base=str(tmp_path / "base"), start=str(tmp_path / "start"), **NEEDED))


def student_of(world: World, judgements: Artefact, **audit: Any) -> Artefact:
    """What a round left behind, as far as the next one asks for it."""
    draft = open_store().draft("encoder", "student", step="fake", inputs={"judgements": judgements}, config=audit)
    with draft:
        draft.write_json("config.json", {})
        return draft.publish(metrics={"filter": {"threshold": 2.5, "round_number": 0, **audit}})


def test_the_filters_thresholds_go_on_under_the_same_teacher_only(world: World) -> None:
    store, watch = open_store(), Watch()
    own, same, other = (
        publish_judgements(store, {**world, "teacher": world[teacher]}, name=name)
        for teacher, name in (("corpus", "first"), ("corpus", "second"), ("queries", "third"))
    )
    start = student_of(world, own)  # of the time when a round recorded its own threshold alone
    assert _earlier_thresholds({"judgements": own}, watch) == []
    assert _earlier_thresholds({"start": start, "judgements": same}, watch) == [{"round": 0, "threshold": 2.5}]
    curve = [{"round": 0, "threshold": 3.0}, {"round": 1, "threshold": 2.5}]
    later = student_of(world, own, thresholds=curve)
    assert _earlier_thresholds({"start": later, "judgements": same}, watch) == curve
    assert watch.said == []
    assert _earlier_thresholds({"start": later, "judgements": other}, watch) == []
    assert _earlier_thresholds({"start": later, "judgements": world["judgements"]}, watch) == [], "nobody knows whose"
    assert len(watch.said) == 2 and all("threshold starts anew" in line for line in watch.said)


@pytest.mark.parametrize(("normalise", "temperature"), [(True, 0.05), (False, 1.0)])
def test_what_the_machine_decides_is_left_to_the_workers(
    world: World, tmp_path: Path, normalise: bool, temperature: float
) -> None:
    base = tiny_encoder(tmp_path / "other", normalise=normalise)
    student, (data, _) = DualEncoder.load(base), small_training_set(world, tmp_path / "base")
    course = _course(DistilConfig(**NEEDED), data, student)
    assert (course.precision, course.forward_tokens) == ("auto", None)
    assert (course.temperature, course.student_temperature) == (temperature, temperature), "cosines, inner products"
    asked_for = _course(DistilConfig(**NEEDED, precision="fp32", forward_tokens=512), data, student)
    assert (asked_for.precision, asked_for.forward_tokens) == ("fp32", 512)


@pytest.mark.parametrize(("step", "patience", "over"), [(8, 0, True), (3, 100, True), (3, 99, False)])
def test_a_run_that_ended_early_is_told_from_one_that_is_over(
    tmp_path: Path, step: int, patience: int, over: bool
) -> None:
    state = State(step=step, evaluations_without_gain=patience)
    (tmp_path / "state.json").write_text(json.dumps(asdict(state)))
    if over:
        assert _final_state(tmp_path, small_course(), "s3://here")["step"] == step
    else:
        with pytest.raises(StorageError, match=r"ended at step 3 of 8 .*kept in s3://here; run the same command again"):
            _final_state(tmp_path, small_course(), "s3://here")


def test_the_loop_runs_without_ray_and_goes_on_from_its_checkpoint(world: World, tmp_path: Path) -> None:
    small_training_set(world, tmp_path / "base")[0].save(tmp_path / "draft" / DATA_FOLDER)
    small_dev_pool(world, tmp_path / "base").save(tmp_path / "draft" / DATA_FOLDER)
    settings = {
        "start": encoder_artefact(str(tmp_path / "base"), open_store()), "layers": None, "frozen": ["embeddings"], "dropout": 0.0,
        "course": asdict(small_course(precision="auto", forward_tokens=None)), "area": FileArea(str(tmp_path / "draft")), "judgements": world["judgements"],
        "checkpoint_steps": 3, "checkpoint_minutes": 60,
    }  # fmt: skip
    link = WorkerLink(folder=tmp_path / "checkpoint")
    teach_student(settings, link)
    assert [report["step"] for report in link.reports if "loss" in report] == list(range(1, 9))
    assert [report["step"] for report in link.reports if "mrr10" in report] == [0, 4, 8]
    over = WorkerLink(folder=tmp_path / "checkpoint")
    teach_student(settings, over)
    assert over.reports == [], "a finished run has nothing left to do"
    assert (tmp_path / "checkpoint" / "best.safetensors").exists()
    # What the driver left to the worker's machine.
    state = json.loads((tmp_path / "checkpoint" / "state.json").read_text())
    assert state["precision"] == pick_precision(pick_device(), "auto")


def test_the_feed_works_ahead_in_order_and_hands_on_errors() -> None:
    def make(step: int) -> int:
        if step == 3:
            raise ValueError("no more")
        return step * step

    feed = Feed(make, 1, 9)
    time.sleep(0.05)
    assert [feed.next(), feed.next()] == [1, 4]
    with pytest.raises(ValueError, match="no more"):
        feed.next()
    feed.close()


def test_a_feed_can_be_closed_while_it_is_full() -> None:
    feed = Feed(lambda step: step, 0, 1000)
    assert feed.next() == 0
    feed.close()
    assert not feed._thread.is_alive()


def test_the_card_says_when_a_student_is_no_better(world: World, tmp_path: Path) -> None:
    student = DualEncoder.load(tmp_path / "base", device="cpu", precision="fp32")
    metrics = {
        "passage_space": "abc", "dev_mrr10_base": 0.5, "dev_mrr10_student": 0.4, "better_than_base": False, "dev_queries": 9,
        "dev_passages": 99, "best_step": 1, "steps": 2,
    }  # fmt: skip
    inputs = {"base": world["corpus"], **world}
    facts = CardFacts("mine", inputs, {"seed": 13}, metrics, ["Apache-2.0", "MIT"], "none")
    card = model_card(student, facts)
    assert "**not better**" in card and "| base | 0.5000 |" in card and "Apache-2.0, MIT" in card
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    assert "No query has labels" in card
    filtered = {
        "method": "dynamic", "negatives": 200, "queries": 40, "dropped": 9, "dropped_share": 0.045, "queries_with_drops": 7,
        "queries_left_without_negatives": 1, "thresholds": [{"round": 0, "threshold": 2.5}, {"round": 1, "threshold": 2.25}],
    }  # fmt: skip
    card = model_card(student, replace(facts, metrics={**metrics, "filter": filtered}))
    assert "Of 200 judged negatives of 40 labelled queries, 9 (4.5%) were dropped" in card
    assert "| 0 | 2.500 |\n| 1 | 2.250 |" in card
