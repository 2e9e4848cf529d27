"""What the search tries: the given values first, all within bounds, of the losses that are on; and which trial it takes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retort.distillation.distil import DistilConfig
from retort.distillation.fakes import small_course
from retort.distillation.search_space import SearchSettings, best_trial, searched, trial_steps, values_of
from retort.errors import ConfigError

NEEDED = {"corpus": "c", "queries": "q", "judgements": "j"}


def test_the_first_trial_is_what_was_asked_for_and_the_others_surround_it() -> None:
    course = small_course(sentence_weight=0.5, word_weight=0.2, learning_rate=1e-4)
    trials = values_of(SearchSettings(trials=40), course)
    assert len(trials) == 40
    assert trials[0] == {
        "learning_rate": 1e-4, "sentence_weight": 0.5, "word_weight": 0.2, "temperature": 0.05, "student_temperature": 0.05,
        "teacher_temperature": 1.0, "word_temperature": 1.0,
    }  # fmt: skip
    weights = [trial["sentence_weight"] for trial in trials[1:]]
    assert 0.1 <= min(weights) < 0.13 and 2 < max(weights) <= 2.5, "evenly on the logarithmic scale"
    assert sum(weight < 0.5 for weight in weights) == pytest.approx(20, abs=1)


@given(
    st.integers(1, 30),
    st.tuples(*[st.sampled_from([0.0, 0.3, 1.0])] * 3).filter(any),
    st.integers(0, 5),
)
def test_trials_move_only_losses_that_are_on_and_stay_in_bounds(
    count: int, weights: tuple[float, ...], seed: int
) -> None:
    names = ("contrastive_weight", "sentence_weight", "word_weight")
    course = small_course(seed=seed, **dict(zip(names, weights, strict=True)))
    settings = SearchSettings(trials=count)
    bounds, trials = searched(settings, course), values_of(settings, course)
    assert trials == values_of(settings, course) and len(trials) == count
    first_on = next(name for name, weight in zip(names, weights, strict=True) if weight)
    for trial in trials:
        assert trial.keys() == bounds.keys() and first_on not in trial
        assert all(low * 0.999 <= trial[name] <= high * 1.001 for name, (low, high) in bounds.items())
        assert not any(name in trial for name, weight in zip(names, weights, strict=True) if weight == 0)
    assert ("temperature" in bounds) == bool(weights[0])
    assert ("student_temperature" in bounds) == ("teacher_temperature" in bounds) == bool(weights[1])
    assert ("word_temperature" in bounds) == bool(weights[2])


def test_fields_and_ranges_narrow_the_search() -> None:
    settings = SearchSettings(trials=9, fields=("learning_rate", "word_weight"), ranges={"learning_rate": (1e-5, 2e-5)})
    trials = values_of(settings, small_course(word_weight=0.0))
    assert all(trial.keys() == {"learning_rate"} for trial in trials)
    assert all(1e-5 <= trial["learning_rate"] <= 2e-5 for trial in trials[1:])


@pytest.mark.parametrize(("reduction", "rungs", "expected"), [(3, 1, (90, 30)), (3, 2, (90, 10)), (10, 4, (90, 1))])
def test_rungs_lie_a_factor_apart(reduction: int, rungs: int, expected: tuple[int, int]) -> None:
    settings = SearchSettings(trials=4, steps=90, reduction=reduction, rungs=rungs)
    assert trial_steps(settings, small_course(steps=360)) == expected
    assert trial_steps(settings, small_course(steps=6))[0] == 6, "never longer than the run"


def row(trial: int, *history: tuple[int, float], diverged: str | None = None) -> dict[str, Any]:
    entries = [{"step": step, "mrr10": value} for step, value in history]
    best = max((value for _, value in history), default=None)
    return {"trial": trial, "history": entries, "mrr10": best, "diverged": diverged}


def test_the_best_is_taken_among_those_that_went_farthest() -> None:
    rows = [row(0, (10, 0.5), (30, 0.6)), row(1, (10, 0.9)), row(2, (10, 0.5), (30, 0.6)), row(3)]
    found = best_trial(rows)
    assert found is not None and found["trial"] == 0, "not the one that was cut short, and of equals the first"
    assert best_trial([row(3)]) is None


def test_a_trial_that_diverged_wins_only_where_nothing_else_has_a_figure() -> None:
    diverged = row(0, (10, 0.9), diverged="the loss is nan")
    found = best_trial([diverged, row(1, (10, 0.4)), row(2)])
    assert found is not None and found["trial"] == 1
    alone = best_trial([diverged, row(2)])
    assert alone is not None and alone["trial"] == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"search": {"trials": 4}}, "search.trials are given without dev_queries"),
        ({"search": {"ranges": {"temperature": (0.2, 0.1)}}}, "must go from a positive number up to a larger one"),
        ({"search": {"fields": ["temperature"], "ranges": {"word_weight": (1, 2)}}}, "word_weight, which fields leaves out"),
        ({"search": {"trail": 4}}, "search.trail"),
    ],
)  # fmt: skip
def test_searches_that_cannot_work_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DistilConfig.validated({**NEEDED, **wrong})


def test_a_search_that_is_off_does_not_make_another_encoder() -> None:
    assert "search" not in DistilConfig(**NEEDED).identity()
    on = DistilConfig(**NEEDED, dev_queries="d", search={"trials": 3})
    assert on.identity()["search"]["trials"] == 3
