"""Length, language and section of pairs, and where in a passage the answer lies."""

from __future__ import annotations

import pytest

from retort.corpus.lookup import Passages
from retort.store import Store
from retort.teaching.fakes import publish_small_world
from retort.teaching.pair_facts import answer_third, answers_of, read_facts, term_weights

PASSAGE = "the red fox runs home while a blue bird sings for the old grey whale"


def test_facts_come_from_the_corpus(store: Store) -> None:
    world = publish_small_world(store, passages=8, queries=4)
    passages = Passages.open(world["corpus"])
    found = read_facts([("q1", "p3"), ("q2", "p3"), ("q3", "p1")], {"q1": "en", "q2": "de"}, passages)
    assert found.words[0] == found.words[1] == len(passages.texts(["p3"])[0].split())
    assert found.language == ["en", "de->en", "en"] and found.section == ["", "", ""]


@pytest.mark.parametrize(
    ("query", "third"),
    [
        ("Red FOX", "first third"),
        ("blue bird", "middle third"),
        ("grey whale", "last third"),
        ("green snake", None),
        ("the", "first third"),
    ],
)
def test_the_place_is_where_the_querys_words_lie_densest(query: str, third: str | None) -> None:
    weights = term_weights([PASSAGE, "the one", "the other"])
    assert answer_third(query, PASSAGE, weights) == third


def test_rare_words_outweigh_common_ones() -> None:
    weights = term_weights(["fox red runs", "fox red", "fox red", "fox red", "whale"])
    assert answer_third("red fox or whale", PASSAGE, weights) == "last third"


def test_a_given_answer_decides() -> None:
    assert answer_third("what does the fox do", PASSAGE, {}, ["Grey Whale"]) == "last third"
    assert answer_third("red fox", PASSAGE, term_weights([PASSAGE]), ["not there"]) == "first third"
    assert (
        answers_of({"answer": "x"}) == ["x"]
        and answers_of({"answers": ["x", 3, " "]}) == ["x"]
        and answers_of({}) == []
    )


def test_two_words_have_no_thirds() -> None:
    assert answer_third("fox", "fox fox", term_weights(["fox"])) is None
