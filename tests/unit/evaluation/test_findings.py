"""Slices, differences and intervals of small made-up scores."""

from __future__ import annotations

import pytest

from retort.evaluation.findings import LEAST_QUERIES, QueryFacts, cut_slices, differences, intervals, slice_rows

BUDGET = {"samples": 500, "seed": 13}


def fact(words: int = 10, section: str = "s", lang: str = "en", origin: str = "user") -> QueryFacts:
    return QueryFacts(passage_words=words, section=section, lang=lang, origin=origin)


def test_length_slices_are_even_and_hold_every_query_once() -> None:
    facts = {f"q{number}": fact(words=number) for number in range(100)}
    slices = [item for item in cut_slices(facts) if item.by == "length"]
    assert [item.label for item in slices] == ["up to 24 words", "25 to 49 words", "50 to 74 words", "over 74 words"]
    assert [len(item.queries) for item in slices] == [25] * 4
    assert sorted(query for item in slices for query in item.queries) == sorted(facts)


def test_lengths_that_are_mostly_equal_give_fewer_bins() -> None:
    facts = {f"q{number}": fact(words=10 if number < 90 else 50) for number in range(100)}
    assert [(item.label, len(item.queries)) for item in cut_slices(facts)] == [
        ("up to 10 words", 90),
        ("over 10 words", 10),
    ]
    assert cut_slices({f"q{number}": fact(words=10) for number in range(100)}) == []


def test_rare_values_are_put_together_and_single_valued_properties_left_out() -> None:
    names = ["big"] * 60 + ["small"] * LEAST_QUERIES + ["rare"] * 3 + [""] * 2
    slices = cut_slices({f"q{number}": fact(section=name) for number, name in enumerate(names)})
    assert [(item.by, item.label, len(item.queries)) for item in slices] == [
        ("section", "big", 60),
        ("section", "small", LEAST_QUERIES),
        ("section", "2 others", 5),
    ]


def test_at_most_twelve_values_of_a_property_get_a_slice() -> None:
    facts = {f"q{number}": fact(lang=f"l{number % 15:02d}") for number in range(15 * LEAST_QUERIES)}
    slices = cut_slices(facts)
    assert len(slices) == 13
    assert slices[-1].label == "3 others"
    assert sum(len(item.queries) for item in slices) == len(facts)


def test_slice_rows_hold_means_and_bounds_of_the_difference() -> None:
    facts = {f"q{number}": fact(lang="en" if number < 40 else "de") for number in range(80)}
    base = dict.fromkeys(facts, 0.5)
    student = {query: 0.75 + 0.01 * (number % 2) if number < 40 else 0.5 for number, query in enumerate(facts)}
    rows = slice_rows(cut_slices(facts), {"base": {"mrr@10": base}, "student": {"mrr@10": student}}, **BUDGET)
    german, english = rows  # equally many queries: by name
    assert english["systems"] == {"base": 0.5, "student": pytest.approx(0.755)}
    assert english["difference"]["mean"] == pytest.approx(0.255)
    assert 0.24 < english["difference"]["low"] < 0.255 < english["difference"]["high"] < 0.27
    assert german["difference"]["mean"] == 0.0
    only_base = slice_rows(cut_slices(facts), {"base": {"mrr@10": base}}, **BUDGET)
    assert [row["difference"] for row in only_base] == [None, None]


def test_differences_are_over_the_queries_that_both_answered() -> None:
    scores = {
        "student": {"mrr@10": {"a": 1.0, "b": 0.5, "c": 0.0}},
        "teacher": {"mrr@10": {"a": 1.0, "b": 1.0}},
    }
    rows = differences(scores, **BUDGET)
    assert [(row["a"], row["b"], row["queries"], row["mean"]) for row in rows] == [("teacher", "student", 2, 0.25)]
    assert rows[0]["p"] == 1.0  # one of two queries differs: both exchanges are as far out


def test_intervals_hold_the_mean_and_the_number_of_queries() -> None:
    found = intervals({"bm25": {"mrr@10": {"a": 0.0, "b": 1.0, "c": 0.5}}}, **BUDGET)["bm25"]["mrr@10"]
    assert found["mean"] == 0.5
    assert found["queries"] == 3
    assert found["low"] < 0.5 < found["high"]
