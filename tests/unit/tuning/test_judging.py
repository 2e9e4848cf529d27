"""What is said of languages and slices: kept, fell, unclear, unguarded, not measurable; and never that a weak guard succeeded."""

from __future__ import annotations

import dataclasses
import json

import pytest

from retort.errors import InputError
from retort.tuning.guard import Judgement

from .looked import made


def judged(*args: object, looks: int = 1, **options: object) -> Judgement:
    guard, before, after = made(*args, **options)  # type: ignore[arg-type]
    return guard.judge(before, after, looks)


MANY = {"de": 700, "en-us": 700, "ja": 700}


def test_languages_that_did_not_move_are_kept() -> None:
    guard, look, _ = made(MANY, {})
    judgement = guard.judge(look, look, looks=9)
    assert judgement.all_kept
    assert {state.state for state in judgement.languages.values()} == {"kept"}
    assert judgement.summary.startswith("Kept: 3 languages and 3 slices")
    assert judgement.worst_low == 0.0


def test_a_language_that_rose_is_kept_and_one_that_fell_is_named() -> None:
    judgement = judged(MANY, {"de": 0.02, "ja": -0.05})
    assert judgement.languages["de"].state == "kept"
    assert judgement.languages["en-us"].state == "kept"
    ja = judgement.languages["ja"]
    assert ja.state == "fell"
    assert ja.change == pytest.approx(-0.05)
    assert ja.low is not None and ja.high is not None
    assert ja.low < -0.05 < ja.high < 0
    assert not judgement.all_kept
    assert judgement.damaged == ["ja", "ja/folder"]
    assert judgement.worst is not None and judgement.worst.language == "ja"
    assert judgement.summary.startswith("Fell: ja (−5.0 points)")
    assert "Kept: 2 languages and 2 slices." in judgement.summary
    assert judgement.mean_language_change == pytest.approx(-0.015), "the pivot language is left out"


def test_a_fall_of_one_slice_is_seen_though_its_language_is_kept() -> None:
    judgement = judged(MANY, {}, slice_change={"de": -0.08})
    assert judgement.languages["de"].state == "kept"
    assert judgement.slices["de/folder"].state == "fell"
    assert judgement.damaged == ["de/folder"]
    assert not judgement.all_kept


def test_few_queries_are_named_as_unguarded_and_do_not_stand_in_the_way() -> None:
    judgement = judged({**MANY, "hi": 60}, {"hi": -0.3})
    assert judgement.languages["hi"].state == "unguarded"
    assert judgement.languages["hi"].low is None
    assert judgement.all_kept
    assert "Unguarded for want of 150 queries: hi (120)" in judgement.summary


def test_a_small_slice_of_a_guarded_language_is_unguarded_for_itself() -> None:
    judgement = judged({**MANY, "ko": 100}, {})
    assert judgement.languages["ko"].state == "kept" or judgement.languages["ko"].state == "unclear"
    assert judgement.slices["ko/folder"].state == "unguarded"


def test_a_language_in_which_the_base_finds_little_is_not_measurable() -> None:
    judgement = judged({**MANY, "th": 700}, {"th": 0.0}, recall={"th": 0.15})
    assert judgement.languages["th"].state == "not_measurable"
    assert "Not measurable, the base's Recall@10 being below 0.2: th (0.15)" in judgement.summary


def test_a_guard_of_which_nothing_can_be_judged_is_no_success() -> None:
    judgement = judged({"hi": 60}, {"hi": 0.1})
    assert not judgement.all_kept
    assert judgement.worst_low is None
    assert judgement.damaged == []
    assert judgement.summary.startswith("Nothing is guarded")


def test_what_is_neither_surely_kept_nor_fallen_is_unclear() -> None:
    judgement = judged({"de": 90, "ja": 90}, {"de": -0.01}, spread=0.4)
    assert judgement.languages["de"].state == "unclear"
    assert not judgement.all_kept
    assert judgement.damaged == []
    assert judgement.summary.startswith("Not surely kept within 1.5 points of MRR@10: de: at worst")


def test_a_mean_loss_above_the_margin_is_a_fall_even_if_it_could_be_chance() -> None:
    state = judged({"de": 90, "ja": 90}, {"de": -0.03}, spread=0.5).languages["de"]
    assert state.high is not None and state.high > 0
    assert state.state == "fell"


def test_more_planned_looks_make_every_bound_more_careful() -> None:
    guard, before, after = made(MANY, {})
    few, many = guard.judge(before, after, looks=1), guard.judge(before, after, looks=40)
    for name, state in many.languages.items():
        assert state.low < few.languages[name].low  # type: ignore[operator]
        assert state.high > few.languages[name].high  # type: ignore[operator]


def test_the_table_has_each_measure_with_an_interval_round_its_change() -> None:
    judgement = judged(MANY, {"de": 0.02})
    rows = {(row["language"], row["level"], row["measure"]): row for row in judgement.rows}
    assert len(rows) == 3 * 2 * 3
    mrr, ndcg = rows["de", "all", "mrr@10"], rows["de", "all", "ndcg@10"]
    assert mrr["state"] == "kept" and ndcg["state"] is None
    assert mrr["change"] == pytest.approx(mrr["after"] - mrr["before"])
    assert mrr["low"] < 0.02 < mrr["high"]
    assert ndcg["low"] == ndcg["high"] == 0


def test_the_tuned_task_is_measured_and_not_guarded() -> None:
    judgement = judged(MANY, {"en": -0.2}, target=500)
    assert judgement.all_kept
    assert judgement.target_change == pytest.approx(-0.2)
    assert judgement.target_low is not None and judgement.target_high is not None
    assert judgement.target_low < -0.2 < judgement.target_high
    assert judged(MANY, {}).target_change is None


def test_a_judgement_survives_json_and_says_what_follows_from_it() -> None:
    judgement = judged({**MANY, "hi": 60}, {"ja": -0.05}, target=300)
    value = json.loads(json.dumps(judgement.to_json(), allow_nan=False))
    assert Judgement.from_json(value) == judgement
    assert value["all_kept"] is False
    assert value["damaged"] == judgement.damaged
    assert value["summary"] == judgement.summary
    assert judgement.to_json(rows=False)["rows"] == []


def test_a_look_of_another_guard_is_refused() -> None:
    guard, before, after = made(MANY, {})
    with pytest.raises(InputError, match="another guard"):
        guard.judge(before, dataclasses.replace(after, guard="e" * 64), looks=1)
