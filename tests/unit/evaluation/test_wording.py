"""Numbers as readers see them."""

from __future__ import annotations

import pytest

from retort.evaluation import wording
from retort.evaluation.assembly import _timing_notes
from retort.evaluation.latency import Latency
from retort.evaluation.relevance import describe_relevance


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (wording.milliseconds(0.423), "0.42"),
        (wording.milliseconds(7.41), "7.4"),
        (wording.milliseconds(1234.5), "1,234"),
        (wording.size(999), "999 B"),
        (wording.size(1000), "1.0 kB"),
        (wording.size(51_300_000), "51.3 MB"),
        (wording.size(10**16), "10000.0 TB"),
        (wording.change(0.0123), "+0.012"),
        (wording.change(-0.0123), "−0.012"),
        (wording.change(-0.0001), "0.000"),
        (wording.p_value(0.0004), "p < 0.001"),
        (wording.p_value(0.0312), "p = 0.031"),
        (wording.p_value(0.5), "p = 0.50"),
        (wording.measure_title("ndcg@10"), "nDCG@10"),
        (wording.lower_first("Base encoder"), "base encoder"),
        (wording.lower_first("BM25"), "BM25"),
        (wording.snippet("one\n two   three"), "one two three"),
        (wording.snippet("word " * 100, 50), "word word word word word word word word word word …"),
        (wording.snippet("漢" * 100, 50), "漢" * 50 + " …"),
    ],
)
def test_written_as(given: str, expected: str) -> None:
    assert given == expected


def test_relevance_of_made_queries_says_what_counts() -> None:
    found = describe_relevance(["title", "title"])
    assert found["source"] == "made"
    assert (
        found["text"] == "queries made from titles; the only passage counted as relevant is the one it was taken from"
    )
    assert found["caution"]


def test_relevance_of_users_and_mixed_queries() -> None:
    assert describe_relevance(["user"])["source"] == "user"
    assert describe_relevance(["user"])["caution"] == ""
    mixed = describe_relevance(["user", "heading", "title", "title", "sentence"])
    assert mixed["source"] == "mixed"
    assert "1 queries with the relevant passages" in mixed["text"]
    assert "4 queries made from titles, headings and first sentences" in mixed["text"]
    assert mixed["origins"] == {"heading": 1, "sentence": 1, "title": 2, "user": 1}


@pytest.mark.parametrize(("cpu_ms", "said"), [(8.0, False), (2.0, True)])
def test_a_busy_machine_is_announced(cpu_ms: float, said: bool) -> None:
    latency = Latency(median_ms=10.0, p90_ms=12.0, cpu_ms=cpu_ms, queries=30, threads=1)
    assert bool(_timing_notes({"student": latency})) is said
