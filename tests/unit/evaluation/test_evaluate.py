"""The step without models and without Ray: BM25 alone on a small world."""

from __future__ import annotations

import pytest

from retort.evaluation.evaluate import EvaluateConfig, evaluate
from retort.progress import QUIET
from retort.store import open_store
from retort.teaching.fakes import publish_small_world


class Said:
    """Progress that remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.task = QUIET.task

    def say(self, message: str) -> None:
        self.lines.append(message)


def test_bm25_alone_gives_a_report_without_a_verdict_and_is_made_once() -> None:
    publish_small_world(open_store(), passages=40, queries=24)
    config = EvaluateConfig(corpus="small", queries="small", resamples=100, latency_queries=3)
    report = evaluate(config)
    found = report.json("report.json")
    (row,) = found["systems"]
    assert row["name"] == "bm25"
    assert 0.5 < row["mrr@10"] <= 1  # a query is two words of its passage
    assert row["recall@100"] > 0.9
    assert found["verdict"] is None
    assert found["details"]["bm25"]["latency"]["queries"] == 3
    assert report.manifest.metrics["bm25"]["mrr@10"] == pytest.approx(row["mrr@10"], abs=1e-4)
    assert report.files() == ["report.html", "report.json", "run-bm25.parquet", "scores.parquet"]
    said = Said()
    assert evaluate(config, said).digest == report.digest
    assert said.lines == ["Report small is already made."]
