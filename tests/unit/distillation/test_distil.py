"""The step's config and its refusals, the feed, the card: what needs no Ray."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from retort.distillation.card import CardFacts, model_card
from retort.distillation.distil import DistilConfig, distil
from retort.distillation.feed import Feed
from retort.distillation.loop import DATA_FOLDER, teach_student
from retort.errors import ConfigError, IncompatibleError, InputError, PolicyError
from retort.models.dual_encoder import DualEncoder
from retort.runtime.loop import WorkerLink
from retort.store import Artefact, open_store

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


def test_the_loop_runs_without_ray_and_goes_on_from_its_checkpoint(world: World, tmp_path: Path) -> None:
    from retort.distillation.fakes import small_course, small_dev_pool, small_training_set
    from retort.models.imports import encoder_artefact
    from retort.store.files import FileArea

    small_training_set(world, tmp_path / "base")[0].save(tmp_path / "draft" / DATA_FOLDER)
    small_dev_pool(world, tmp_path / "base").save(tmp_path / "draft" / DATA_FOLDER)
    from dataclasses import asdict

    settings = {
        "start": encoder_artefact(str(tmp_path / "base"), open_store()), "layers": None, "frozen": ["embeddings"], "dropout": 0.0,
        "course": asdict(small_course()), "area": FileArea(str(tmp_path / "draft")), "judgements": world["judgements"],
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
    card = model_card(student, CardFacts("mine", inputs, {"seed": 13}, metrics, ["Apache-2.0", "MIT"], "none"))
    assert "**not better**" in card and "| base | 0.5000 |" in card and "Apache-2.0, MIT" in card
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
