"""Whatever arrives: an answer below 500 that is a problem, or a valid one; and the endpoint still works after it."""

import asyncio
import json
import sys
from collections import Counter

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from retort.serving.api import create_app
from retort.serving.fakes import make_engine
from retort.serving.models import MAX_HITS, MAX_K, MAX_OFFSET, EmbeddingsRequest, Problem, SearchRequest

PATHS = ("/v1/search", "/v1/embeddings")


class Endpoint:
    """The application with an event loop that stays."""

    def __init__(self) -> None:
        engine = make_engine()
        self._loop = asyncio.new_event_loop()
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app(lambda: engine)), base_url="http://test"
        )

    def post(self, path, body, **headers):
        return self._loop.run_until_complete(self._client.post(path, content=body, headers=headers))

    def checked(self, path, body, **headers):
        """The answer, after checking what every answer must be."""
        answer = self.post(path, body, **headers)
        assert answer.status_code == 200 or 400 <= answer.status_code < 500, (answer.status_code, answer.text[:300])
        if answer.status_code != 200:
            assert answer.headers["content-type"] == "application/problem+json"
            assert len(Problem.model_validate_json(answer.content).detail) < 2000
        return answer


@pytest.fixture(scope="module")
def endpoint():
    return Endpoint()


BODIES = {
    "empty": b"",
    "blank": b"   ",
    "not json": b"query=x",
    "cut off": b'{"query": "x"',
    "two documents": b'{"query":"x"} {"query":"y"}',
    "null": b"null",
    "list": b"[]",
    "number": b"1",
    "string": b'"x"',
    "bom": b"\xef\xbb\xbf" + b'{"query":"x"}',
    "utf-16": '{"query":"x"}'.encode("utf-16"),
    "latin-1": '{"query":"é"}'.encode("latin-1"),
    "lone surrogate": b'{"query":"\\ud800 x"}',
    "lone surrogate in a field name": b'{"query":"x","\\udfff":1}',
    "surrogates the wrong way round": b'{"query":"\\udc00\\ud800"}',
    "nul": b'{"query":"a\\u0000b"}',
    "raw control character": b'{"query":"a\x01b"}',
    "deep list": b"[" * 50_000,
    "deep object": b'{"a":' * 50_000,
    "deep filter": b'{"query":"x","filters":{"a":' + b"[" * 500 + b"]" * 500 + b"}}",
    "1 MB query": b'{"query":"' + b"a" * 1_000_000 + b'"}',
    "1 MB of spaces": b" " * 1_000_000,
    "2 MB": b'{"query":"' + b"a" * 2_000_000 + b'"}',
    "many queries": json.dumps({"queries": ["x"] * 5000}).encode(),
    "k zero": b'{"query":"x","k":0}',
    "k a million": b'{"query":"x","k":1000000}',
    "k negative": b'{"query":"x","k":-1}',
    "k of 5000 digits": b'{"query":"x","k":' + b"9" * 5000 + b"}",
    "k infinite": b'{"query":"x","k":1e999}',
    "k not a number": b'{"query":"x","k":NaN}',
    "k true": b'{"query":"x","k":true}',
    "unknown encoder": b'{"query":"x","encoder":"nobody"}',
    "encoder with a nul": b'{"query":"x","encoder":"a\\u0000"}',
    "filter on nothing": b'{"query":"x","filters":{"":1}}',
    "filter infinite": b'{"query":"x","filters":{"year":{"gte":1e999}}}',
    "filter range of kinds": b'{"query":"x","filters":{"year":{"gte":1,"lt":"b"}}}',
    "too many filter values": json.dumps({"query": "x", "filters": {"year": list(range(5000))}}).encode(),
    "same key twice": b'{"query":"x","query":5}',
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", BODIES)
def test_odd_bodies_are_refused_with_a_problem(endpoint, path, name):
    answer = endpoint.checked(path, BODIES[name])
    assert answer.status_code in (400, 404, 413, 422), name


def test_it_still_answers_after_all_that(endpoint):
    for body in BODIES.values():
        endpoint.checked(PATHS[0], body)
    assert endpoint.post(PATHS[0], b'{"query":"sort"}').json()["hits"][0]["passage_id"] == "p4"


MANY = 40_000
CROWDED = {
    "bad filter names": (SearchRequest, {"query": "x", "filters": {f"a\x01{number}": 1 for number in range(MANY)}}),
    "filters": (SearchRequest, {"query": "x", "filters": {f"a{number}": [] for number in range(MANY)}}),
    "filter values": (SearchRequest, {"query": "x", "filters": {"a": [None] * MANY}}),
    "fields of a range": (SearchRequest, {"query": "x", "filters": {"a": {f"a{number}": 1 for number in range(MANY)}}}),
    "unknown fields": (SearchRequest, {"query": "x", **{f"a{number}": 1 for number in range(MANY)}}),
    "unknown fields of embeddings": (EmbeddingsRequest, {"input": "x", **{f"a{number}": 1 for number in range(MANY)}}),
    "queries": (SearchRequest, {"queries": [""] * 100}),
    "inputs": (EmbeddingsRequest, {"input": [""] * 100}),
}


@pytest.mark.parametrize("name", CROWDED)
def test_of_thousands_of_mistakes_few_are_looked_at_and_one_is_told(endpoint, name):
    model, body = CROWDED[name]
    text, called = json.dumps(body).encode(), Counter()
    sys.setprofile(lambda frame, event, argument: called.update([frame.f_code.co_name]) if event == "call" else None)
    try:
        with pytest.raises(ValidationError) as refused:
            model.model_validate_json(text)
    finally:
        sys.setprofile(None)
    assert refused.value.error_count() < 10 and called["_name"] + called["_searchable"] <= 2
    answer = endpoint.checked(PATHS[model is EmbeddingsRequest], text)
    assert answer.status_code == 422 and len(answer.json()["errors"]) == 1


def test_what_one_request_may_look_for_is_bounded_and_one_query_never_passes_the_bound(endpoint):
    assert endpoint.checked(PATHS[0], json.dumps({"query": "x", "k": MAX_K, "offset": MAX_OFFSET}).encode()).is_success
    fitting = {"queries": ["x"] * 110, "k": MAX_HITS // 110}
    assert endpoint.checked(PATHS[0], json.dumps(fitting).encode()).is_success
    for more in ({"k": fitting["k"] + 1}, {"offset": 1}):
        answer = endpoint.checked(PATHS[0], json.dumps({**fitting, **more}).encode())
        assert answer.status_code == 422 and "are 11110 hits; at most 11000" in answer.json()["detail"]
        assert "send fewer queries at once, or ask for a smaller k" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"content-type": "application/vnd.x+json"}, 200),
        ({"content-type": "APPLICATION/JSON; charset=utf-8"}, 200),
        ({"content-length": "99999999999999999999"}, 413),
        ({"content-length": "-1"}, 400),
        ({"content-length": "two"}, 400),
        ({"content-length": "²"}, 400),
    ],
)
def test_headers_are_checked(endpoint, headers, status):
    raw = {name: value.encode("utf-8") for name, value in headers.items()}
    assert endpoint.checked(PATHS[0], b'{"query":"sort"}', **raw).status_code == status


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
fields = st.sampled_from(["query", "queries", "k", "offset", "encoder", "filters", "group_by", "rerank", "hybrid", "highlight", "input", "model",
                          "encoding_format", "dimensions", "user", "input_type", "extra"])  # fmt: skip
nearly = st.fixed_dictionaries(
    {"query": st.text(max_size=40) | values},
    optional={
        "k": st.integers(-3, 1200) | values,
        "offset": st.integers(-3, 20) | values,
        "encoder": st.sampled_from(["words", "other"]) | values,
        "filters": st.dictionaries(st.sampled_from(["lang", "year", "tags", "draft", "x"]), values, max_size=3)
        | values,
        "group_by": st.just("doc_id") | values,
        "highlight": st.booleans(),
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=nearly | st.dictionaries(fields, values, max_size=6), path=st.sampled_from(PATHS))
def test_any_json_object_gets_an_answer(endpoint, body, path):
    endpoint.checked(path, json.dumps(body).encode())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200), path=st.sampled_from(PATHS))
def test_any_bytes_get_an_answer(endpoint, body, path):
    assert endpoint.checked(path, body).status_code != 200


@pytest.mark.parametrize("value", ["", "0", "-1", "1.5", "soon", "1e3", "9" * 40, "\u0661", " 5 x"])
def test_a_deadline_header_that_is_none_is_told(endpoint, value):
    answer = endpoint.checked("/v1/search", b'{"query":"x"}', **{"x-deadline-ms": value.encode()})
    assert answer.status_code == 400 and "x-deadline-ms" in answer.json()["detail"]


def test_a_deadline_header_of_milliseconds_is_taken(endpoint):
    assert endpoint.checked("/v1/search", b'{"query":"x"}', **{"x-deadline-ms": "5000"}).status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"rerank": 0},
        {"rerank": 5, "k": 10},
        {"rerank": "10"},
        {"hybrid": "yes"},
        {"hybrid": None},
        {"deadline_ms": 0},
        {"deadline_ms": 10**9},
    ],
)
def test_options_that_do_not_fit_are_422(endpoint, fields):
    assert endpoint.checked("/v1/search", json.dumps({"query": "x", **fields}).encode()).status_code == 422
