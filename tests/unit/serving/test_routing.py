"""Which encoder answers: by request, rule, weight, default; and that keys stick."""

import collections
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from retort.releases.routing import Guard, Routing, Rule
from retort.serving.guarding import Watch
from retort.serving.routing import Route, route, sticky_draw


def chosen(routing, text="how do I read a file", asked=None, headers=None, draw=0.5):
    texts = [text] if isinstance(text, str) else text
    return route(routing, "base", asked=asked, texts=texts, headers=headers or {}, draw=draw)


RULES = Routing(
    rules=[
        Rule(encoder="german", languages=["de"]),
        Rule(encoder="code", pattern=r"\w+\(\)"),
        Rule(encoder="short", max_chars=5),
        Rule(encoder="long", min_chars=200),
        Rule(encoder="vip", headers={"X-Customer": "gold"}),
    ],
    weights={"base": 0.9, "tuned": 0.1},
)


@pytest.mark.parametrize(
    ("text", "headers", "expected"),
    [
        ("Wie lese ich eine Datei Zeile für Zeile", {}, Route("german", "rule")),
        ("what does os.listdir() return", {}, Route("code", "rule")),
        ("fork", {}, Route("short", "rule")),
        ("how do I " * 30, {}, Route("long", "rule")),
        ("how do I read a file", {"x-customer": "gold"}, Route("vip", "rule")),
        ("how do I read a file", {"x-customer": "silver"}, Route("base", "weight")),
    ],
)
def test_the_first_rule_that_holds_decides(text, headers, expected):
    assert chosen(RULES, text, headers=headers, draw=0.0) == expected


def test_a_request_that_names_an_encoder_gets_it_and_without_routing_the_default_answers():
    assert chosen(RULES, "fork", asked="tuned") == Route("tuned", "request")
    assert chosen(None) == chosen(Routing()) == Route("base", "default")


def test_all_conditions_of_a_rule_must_hold_for_all_queries():
    both = Routing(rules=[Rule(encoder="x", max_chars=5, pattern="o")])
    assert [chosen(both, text).encoder for text in ("fork", "read", "a longer one")] == ["x", "base", "base"]
    assert chosen(both, ["fork", "node"]).encoder == "x" and chosen(both, ["fork", "read"]).encoder == "base"


def test_a_pattern_that_takes_for_ever_is_not_found():
    evil = Routing(rules=[Rule(encoder="x", pattern=r"(a|aa)+$")])
    began = time.perf_counter()
    assert chosen(evil, "a" * 60 + "b").encoder == "base"
    assert time.perf_counter() - began < 2


@given(draw=st.floats(0, 1, exclude_max=True), first=st.floats(0, 10), second=st.floats(0.01, 10))
def test_a_draw_always_falls_on_an_encoder_with_weight(draw, first, second):
    found = chosen(Routing(weights={"a": first, "b": second, "none": 0.0}), draw=draw)
    assert found.by == "weight" and found.encoder == ("a" if draw * (first + second) < first else "b")


def test_keys_stick_shares_are_kept_and_a_growing_canary_takes_nobody_back():
    keys = [f"user-{number}" for number in range(4000)]

    def shares(canary):
        routing = Routing(weights={"canary": canary, "main": 1 - canary})
        return {key: chosen(routing, draw=sticky_draw("live", key)).encoder for key in keys}

    ten, twenty = shares(0.1), shares(0.2)
    assert ten == shares(0.1)
    assert collections.Counter(ten.values())["canary"] == pytest.approx(400, abs=80)
    assert all(twenty[key] == "canary" for key in keys if ten[key] == "canary")
    assert sticky_draw("live", "a") != sticky_draw("other", "a")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rules": [{"encoder": "x"}]}, "needs a condition"),
        ({"rules": [{"encoder": "x", "pattern": "("}]}, "no regular expression"),
        ({"weights": {"a": 0}}, "all 0"),
        ({"weights": {"a": -1}}, "greater than or equal to 0"),
        ({"wheights": {}}, "Extra inputs"),
    ],
)
def test_settings_that_mean_nothing_are_refused(fields, words):
    with pytest.raises(ValidationError, match=words):
        Routing.model_validate(fields)


class TestGuard:
    def watch(self, **fields):
        return Watch(Guard(min_requests=10, watch_s=60, **fields), began_s=100)

    def test_it_waits_for_enough_requests(self):
        watch = self.watch()
        for _ in range(9):
            watch.failed()
        assert watch.verdict(101) is None
        watch.failed()
        assert watch.verdict(101) == "10 of 10 requests failed; its guard allows 5.0%"

    def test_latency_is_judged_by_its_p95(self):
        watch = self.watch(max_p95_ms=100)
        for number in range(100):
            watch.answered(500 if number >= 96 else 20)
        assert watch.verdict(101) is None
        for _ in range(10):
            watch.answered(500)
        assert "p95 is 500 ms" in watch.verdict(101)

    def test_answers_whose_time_says_nothing_are_no_times(self):
        watch = self.watch(max_p95_ms=100)
        for number in range(50):
            watch.answered(500 if number < 9 else None)
        assert watch.verdict(101) is None
        watch.answered(500)
        assert "p95 is 500 ms over 10 requests" in watch.verdict(101)

    def test_it_judges_only_for_a_while_and_only_where_there_is_a_guard(self):
        watch, none = self.watch(), Watch(None, 0.0)
        for _ in range(20):
            watch.failed()
            none.failed()
        assert watch.verdict(159) and watch.verdict(161) is None and none.verdict(1) is None
