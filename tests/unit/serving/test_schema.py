"""What the OpenAPI document promises, tried by schemathesis: valid and invalid requests, the same ones in every run."""

import asyncio
import time

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from retort.mining.bm25 import Bm25
from retort.releases.routing import Routing, Rule
from retort.serving.api import create_app
from retort.serving.engine import SearchEngine
from retort.serving.fakes import PASSAGES, WordCounter, make_searcher, make_served
from retort.serving.served import Served

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)


def engine():
    words = Bm25.of([p["passage_id"] for p in PASSAGES], [p["text"] for p in PASSAGES])
    made = make_served(make_searcher(PASSAGES, ("words", "other"), words=words, reranker=WordCounter()))
    routing = Routing(rules=[Rule(encoder="other", pattern="x+y")])
    return SearchEngine(Served(made.searcher, made.identity, routing=routing))


class OneLoop:
    """The application on an event loop that stays: schemathesis would start a new one for each request."""

    def __init__(self):
        app_engine = engine()
        self.app = create_app(lambda: app_engine)
        self.loop = asyncio.new_event_loop()
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test")

    def ask(self, case):
        request = case.as_transport_kwargs(base_url="http://test")
        options = {
            name: request[name]
            for name in ("params", "headers", "json", "data", "content")
            if request.get(name) is not None
        }
        if isinstance(options.get("data"), bytes | str):
            options["content"] = options.pop("data")
        try:
            built = self.client.build_request(request["method"], request["url"], **options)
        except (TypeError, UnicodeEncodeError, httpx.InvalidURL):
            return None  # what no client can send
        return self.loop.run_until_complete(self.client.send(built))

    def close(self):
        self.loop.run_until_complete(self.client.aclose())
        self.loop.close()


world = OneLoop()
document = world.loop.run_until_complete(world.client.get("/openapi.json")).json()
schema = schemathesis.openapi.from_dict(document)


@pytest.fixture(scope="module", autouse=True)
def ended():
    yield
    world.close()


def check(case):
    began = time.monotonic()
    answer = world.ask(case)
    if answer is None:
        return
    assert time.monotonic() - began < 5, "a hang"
    case.validate_response(schemathesis.Response.from_httpx(answer, verify=False), checks=CHECKS)


common = {
    "derandomize": True,
    "database": None,
    "deadline": 5000,
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.explicit, Phase.generate],
}


@schema.parametrize()
@settings(max_examples=15, **common)
def test_the_document_is_kept(case):
    check(case)


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=1000, **common)
def test_the_document_is_kept_by_many_more_requests(case):
    check(case)
