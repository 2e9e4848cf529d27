"""The formula of trust, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from retort.teaching.trust import PairFacts, Reliability, agreement, length_edges, length_labels, measure_reliability


def facts(words: list[int], language: list[str], section: list[str]) -> PairFacts:
    return PairFacts(words=words, language=language, section=section)


def one_property(sections: list[str]) -> PairFacts:
    return facts([5] * len(sections), [""] * len(sections), sections)


def test_one_property_gives_the_shrunken_mean_of_each_slice() -> None:
    sections = ["good"] * 30 + ["bad"] * 10
    concordance = np.array([1.0] * 30 + [0.5] * 10)
    query = np.arange(40)
    found = measure_reliability(one_property(sections), concordance, query, prior=20)
    whole = (30 * 1.0 + 10 * 0.5) / 40
    assert found.whole == pytest.approx(whole) and found.queries == 40
    good, bad = found.accuracy(one_property(["good", "bad"]))
    assert good == pytest.approx((30 * 1.0 + 20 * whole) / 50, abs=1e-5)
    assert bad == pytest.approx((10 * 0.5 + 20 * whole) / 30, abs=1e-5)
    assert found.trust(one_property(["bad"]))[0] == pytest.approx(2 * bad - 1)


def test_a_small_slice_leans_on_the_whole_and_an_unknown_one_is_the_whole() -> None:
    sections = ["large"] * 200 + ["small"] * 2
    concordance = np.array([0.9] * 200 + [0.0] * 2)
    found = measure_reliability(one_property(sections), concordance, np.arange(202), prior=20)
    large, small, new = found.accuracy(one_property(["large", "small", "never seen"]))
    assert small > 0.75 and large > small
    assert new == found.whole


def test_what_two_properties_explain_together_is_not_counted_twice() -> None:
    n = 400
    bad = np.arange(n) % 2 == 0
    both = facts([5] * n, np.where(bad, "de", "en").tolist(), np.where(bad, "x", "y").tolist())
    concordance = np.where(bad, 0.6, 1.0)
    found = measure_reliability(both, concordance, np.arange(n), prior=20)
    assert found.accuracy(facts([5], ["de"], ["x"]))[0] == pytest.approx(0.6, abs=0.02)


def test_each_query_weighs_the_same_however_long_its_list() -> None:
    concordance = np.array([1.0] * 90 + [0.0])
    query = np.array([0] * 90 + [1])
    assert measure_reliability(one_property(["s"] * 91), concordance, query, prior=1).whole == pytest.approx(0.5)


def test_a_coin_deserves_no_trust_and_nothing_measured_none_either() -> None:
    coin = measure_reliability(one_property(["s"] * 50), np.full(50, 0.5), np.arange(50), prior=20)
    assert coin.trust(one_property(["s"]))[0] == 0
    nothing = measure_reliability(one_property(["s"]), np.array([np.nan]), np.zeros(1, dtype=np.int64), prior=20)
    assert nothing.trust(one_property(["s"]))[0] == 0
    assert Reliability.model_validate(coin.model_dump(mode="json")) == coin


def test_trust_stays_between_nothing_and_all() -> None:
    generator = np.random.default_rng(5)
    labels = generator.choice(["a", "b", "c"], size=(3, 300))
    rows = facts(generator.integers(1, 90, size=300).tolist(), labels[1].tolist(), labels[2].tolist())
    found = measure_reliability(rows, generator.random(300) ** 0.1, np.arange(300) // 3, prior=0.1)
    trust = found.trust(rows)
    assert trust.min() >= 0 and trust.max() <= 1


def test_agreement_is_above_chance_and_full_where_nobody_else_judged() -> None:
    query = np.array([0, 0, 0, 1, 1])
    ours = np.array([3.0, 2.0, 1.0, 1.0, 2.0])
    other = np.array([3.0, 1.0, 2.0, np.nan, np.nan])
    assert agreement(ours, [], query).tolist() == [1] * 5
    assert agreement(ours, [other], query).tolist() == [1, 0, 0, 1, 1]
    assert agreement(ours, [other, ours], query)[:3].tolist() == [1, 0.5, 0.5]


def test_length_bins_cover_every_length() -> None:
    edges = length_edges(np.array([5, 5, 5, 9, 12, 30]))
    assert edges == [5, 9]
    assert length_labels([1, 5, 6, 9, 10, 999], edges) == [
        "up to 5 words", "up to 5 words", "6 to 9 words", "6 to 9 words", "over 9 words", "over 9 words",
    ]  # fmt: skip
    assert length_edges(np.array([7, 7])) == [] and length_labels([7], []) == ["any length"]
