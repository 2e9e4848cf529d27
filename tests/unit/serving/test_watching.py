"""What operators see: log lines, spans, metrics of all replicas."""

import asyncio
import json
import logging

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from retort.serving.api import create_app
from retort.serving.fakes import make_engine
from retort.serving.journal import LOGGER, Journal
from retort.serving.metrics import ServingMetrics
from retort.serving.metrics_exchange import MetricsExchange
from retort.serving.metrics_text import merged


def asked(app, *requests):
    async def scenario():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return [await client.request(method, path, **options) for method, path, options in requests]

    return asyncio.run(scenario())


class Kept(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture
def lines():
    logger, handler = logging.getLogger(LOGGER), Kept()
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)


SECRET = "my doctor's\nfile \u202e"
REQUESTS = (
    ("POST", "/v1/search", {"json": {"query": SECRET, "k": 3}, "headers": {"x-request-id": "mine"}}),
    ("POST", "/v1/search", {"json": {"query": SECRET, "k": 0}}),
    ("GET", "/nope", {}),
)


def test_a_line_per_request_without_its_text(lines):
    engine = make_engine()
    asked(create_app(lambda: engine, journal=Journal("requests", "r1")), *REQUESTS)
    good, bad, nowhere = map(json.loads, lines)
    assert (good["request_id"], good["replica"], good["status"], good["route"]) == ("mine", "r1", 200, "/v1/search")
    assert (good["queries"], good["k"], good["encoder"], good["release"]) == (1, 3, "words", "trial")
    assert good["ms"] > 0 and good["key"] == "anyone"
    assert (bad["status"], nowhere["status"], nowhere["route"]) == (422, 404, "other")
    assert "doctor" not in "".join(lines)


def test_query_text_is_logged_when_asked_for_on_one_line(lines):
    engine = make_engine()
    asked(create_app(lambda: engine, journal=Journal("queries")), *REQUESTS)
    assert json.loads(lines[0])["texts"] == [SECRET] and lines[0].isascii() and "\n" not in lines[0]


def test_nothing_is_logged_unless_wanted(lines):
    engine = make_engine()
    asked(create_app(lambda: engine), *REQUESTS)
    assert lines == []


@pytest.fixture(scope="module")
def spans():
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def test_spans_follow_the_callers_trace_and_hold_no_text(spans):
    spans.clear()
    engine = make_engine()
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    body = {"json": {"query": SECRET}, "headers": {"traceparent": parent}}
    asked(create_app(lambda: engine), ("POST", "/v1/search", body))
    found = {span.name: span for span in spans.get_finished_spans()}
    request = found["POST /v1/search"]
    assert format(request.context.trace_id, "032x") == parent.split("-")[1]
    for stage in ("queue", "encode", "search", "fetch"):
        span = found[f"retort.{stage}"]
        assert span.parent.span_id == request.context.span_id
        assert request.start_time <= span.start_time + 1_000_000 and span.end_time <= request.end_time + 1_000_000
    assert request.attributes["http.response.status_code"] == 200 and request.attributes["retort.encoder"] == "words"
    assert "doctor" not in "".join(span.to_json() for span in found.values())


def test_a_mistake_of_ours_marks_its_span(spans):
    spans.clear()
    engine = make_engine()
    engine.served.searcher.encoder("words")[1].encode = lambda texts, side: 1 / 0
    asked(create_app(lambda: engine), ("POST", "/v1/search", {"json": {"query": "x"}}))
    (request,) = [span for span in spans.get_finished_spans() if span.name == "POST /v1/search"]
    assert request.status.status_code.name == "ERROR"


class Board(dict):
    def put(self, name, text):
        self[name] = text

    def all(self):
        return dict(self)

    def remove(self, name):
        self.pop(name, None)


def text_of(replica, requests):
    metrics = ServingMetrics(replica)
    for _ in range(requests):
        metrics.request("/v1/search", 200, 0.01)
    return metrics.render().decode()


def test_texts_of_replicas_merge_into_one_that_parses():
    families = {
        family.name: family for family in text_string_to_metric_families(merged([text_of("a", 2), text_of("b", 3)]))
    }
    samples = [one for one in families["retort_requests"].samples if one.name == "retort_requests_total"]
    assert {one.labels["replica"]: one.value for one in samples} == {"a": 2, "b": 3}
    alone = text_of("a", 1)
    assert sorted(merged([alone]).splitlines()) == sorted(line for line in alone.splitlines() if line)


def test_replicas_see_each_other_until_they_are_gone(monkeypatch):
    board = Board()
    one, two = (MetricsExchange(board, name, lambda name=name: text_of(name, 1)) for name in ("a", "b"))
    one.turn(), two.turn(), one.turn()
    assert len(one.others()) == 1 and 'replica="b"' in one.others()[0]
    engine = make_engine()
    answer = asked(create_app(lambda: engine, other_metrics=one.others), ("GET", "/metrics", {}))[0]
    assert 'retort_requests_total{replica="b"' in answer.text and answer.text.count("# TYPE retort_requests_total") == 1
    two.stop()
    one.turn()
    assert one.others() == []
    board.put("killed", json.dumps({"at": 0, "text": "x"}))
    one.turn()
    assert one.others() == [] and "killed" not in board
