"""Which examples are shown, and what is said of their hits."""

from __future__ import annotations

from retort.evaluation.examples import choose_queries, example_rows


def test_one_better_one_equal_one_worse() -> None:
    student = {"up": 1.0, "upper": 1.0, "same": 1.0, "zero": 0.0, "down": 0.2}
    base = {"up": 0.5, "upper": 0.1, "same": 1.0, "zero": 0.0, "down": 1.0}
    assert [query for query, _ in choose_queries(student, base)] == ["upper", "same", "down"]


def test_kinds_that_do_not_exist_are_filled_without_repeating_a_query() -> None:
    student = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.5}
    base = {"a": 0.5, "b": 0.4, "c": 0.3, "d": 0.1}
    assert [query for query, _ in choose_queries(student, base)] == ["c", "b", "a"]
    same = choose_queries(student, student)
    assert len({query for query, _ in same}) == 3
    assert len(choose_queries({"a": 1.0, "b": 0.5}, {"a": 1.0, "b": 0.0})) == 2


def test_without_a_base_best_middle_and_worst() -> None:
    assert [query for query, _ in choose_queries({"a": 0.1, "b": 0.9, "c": 0.5}, None)] == ["b", "c", "a"]
    assert [query for query, _ in choose_queries({"a": 0.1}, None)] == ["a"]


def test_hits_say_whether_they_are_relevant_and_the_expected_passage_is_named_when_it_is_missing() -> None:
    rankings = {
        "student": {"q": [("p9", 0.5), ("p1", 0.25)], "r": [(f"x{place}", 1.0 - place / 10) for place in range(8)]},
        "bm25": {"q": [("p1", 3.0)], "r": []},
    }
    qrels = {"q": {"p1": 1, "p9": 0}, "r": {"x7": 1, "best": 2}}
    rows = example_rows(
        [("q", "why"), ("r", "why not")],
        rankings,
        qrels,
        {"q": "text of q", "r": "text of r"},
        lambda ids: {passage: (f"title {passage}", f"text {passage}") for passage in ids},
        "student",
    )
    first, second = rows
    assert [(hit["passage_id"], hit["rank"], hit["score"], hit["relevant"]) for hit in first["hits"]] == [
        ("p9", 1, 0.5, False),
        ("p1", 2, 0.25, True),
    ]
    assert first["ranks"] == {"student": 2, "bm25": 1}
    assert first["expected"] is None
    assert (first["hits"][0]["title"], first["hits"][0]["snippet"]) == ("title p9", "text p9")
    assert second["ranks"] == {"student": 8, "bm25": None}
    assert len(second["hits"]) == 5
    assert second["expected"]["passage_id"] == "best"
