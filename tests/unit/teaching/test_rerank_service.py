"""The reranking service, asked over real HTTP: a server of this test on a port of its own."""

import numpy as np
import pytest
from tests.rerank_desk import Desk

from retort.config import validated
from retort.errors import ConfigError, StorageError
from retort.teaching.rerank_service import CostCapError, RerankService, ServiceJudge, service_key


@pytest.fixture
def desk():
    desk = Desk()
    yield desk
    desk.close()


def judge(desk, **settings):
    values = {"url": desk.url, "requests_per_minute": 1e6, **settings}
    service = validated(RerankService, values, "the test")
    return ServiceJudge(service, key=service_key(service))


PAIRS = [("a", "x" * 20), ("b", "x" * 50), ("a", "x" * 80), ("b", "x" * 10)]


def test_scores_are_logits_in_the_order_of_the_pairs_one_request_a_query(desk):
    verdicts = judge(desk).judge(PAIRS)
    share = np.array([0.2, 0.5, 0.8, 0.1])
    assert np.allclose([verdict.score for verdict in verdicts], np.log(share / (1 - share)))
    assert [body["query"] for body in desk.seen] == ["a", "b"]
    assert all(verdict.word_map is None for verdict in verdicts)


def test_tei_is_asked_for_raw_scores_and_they_stay_as_they_are(desk):
    verdicts = judge(desk, shape="tei").judge(PAIRS)
    assert [verdict.score for verdict in verdicts] == [0.2, 0.5, 0.8, 0.1]
    assert all(body["raw_scores"] is True for body in desk.seen)


def test_certain_answers_stay_finite(desk):
    scores = [verdict.score for verdict in judge(desk).judge([("a", ""), ("a", "x" * 100)])]
    assert np.isfinite(scores).all() and scores[0] < -10 < 10 < scores[1]


def test_passages_are_sent_in_batches(desk):
    judge(desk, documents_per_request=2).judge([("a", "x" * i) for i in range(1, 6)])
    assert [len(body["documents"]) for body in desk.seen] == [2, 2, 1]


def test_a_busy_service_is_asked_again_when_it_says(desk):
    desk.plan = [(429, {"retry-after": "0"}), (503, {"retry-after": "0"})]
    asked = judge(desk, price_per_request=0.5)
    asked.judge(PAIRS[:1])
    assert (asked.meter.requests, asked.meter.retries, asked.meter.cost) == (3, 2, 1.5)


def test_a_service_that_stays_away_is_told_as_one_error(desk):
    desk.plan = [(500, {"retry-after": "0"})] * 3
    with pytest.raises(StorageError, match="failed 3 times: status 500"):
        judge(desk, attempts=3).judge(PAIRS[:1])


def test_the_cost_is_capped_before_the_request_is_sent(desk):
    asked = judge(desk, price_per_request=1.0, max_cost=2.0)
    with pytest.raises(CostCapError, match="raise service.max_cost"):
        asked.judge([(name, "text") for name in "abc"])
    assert len(desk.seen) == 2


def test_the_key_comes_from_the_environment_and_is_in_no_message(desk, monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", "very-secret")
    desk.plan = [(500, {"retry-after": "0"}), (401, {})]
    caplog.set_level("DEBUG")
    with pytest.raises(ConfigError) as failure:
        judge(desk, key_env="MY_KEY").judge(PAIRS[:1])
    assert desk.keys == ["Bearer very-secret"] * 2
    assert "MY_KEY" in str(failure.value)
    assert "very-secret" not in str(failure.value) + caplog.text


def test_a_refused_text_is_no_fault_of_the_service(desk):
    desk.plan = [(422, {})]
    with pytest.raises(ValueError, match="422"):
        judge(desk).judge(PAIRS[:1])


def test_an_answer_of_another_shape_is_told(desk):
    asked = judge(desk)
    object.__setattr__(asked.service, "shape", "jina")
    asked._body = lambda query, passages: {"query": query, "texts": passages}
    with pytest.raises(ValueError, match="not of the shape jina"):
        asked.judge(PAIRS[:1])


def test_an_address_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="url"):
        validated(RerankService, {"url": "ftp://x"}, "service")


def test_a_key_that_no_header_takes_is_refused_without_showing_it(monkeypatch):
    monkeypatch.setenv("MY_KEY", "se\ncret")
    with pytest.raises(ConfigError, match="MY_KEY") as failure:
        service_key(validated(RerankService, {"url": "http://x", "key_env": "MY_KEY"}, "service"))
    assert "cret" not in str(failure.value)
