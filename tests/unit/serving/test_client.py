"""The client against the real application, and against endpoints that fail."""

import asyncio
import json

import httpx
import numpy as np
import pytest

from retort.errors import InputError, OverloadedError
from retort.serving.api import create_app
from retort.serving.client import AsyncClient, Client, EndpointError
from retort.serving.fakes import make_engine, make_searcher


def answering(*answers):
    """A transport that gives these answers in turn; an exception among them is raised. Notes how often it was asked."""
    left = list(answers)

    def handle(request):
        handle.asked += 1
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    handle.asked = 0
    return handle, httpx.MockTransport(handle)


def found():
    release = {"name": "r", "index": "i", "encoder": "e", "encoder_digest": "d"}
    times = dict.fromkeys(("queue", "encode", "search", "fetch", "total"), 1.0)
    return httpx.Response(200, json={"hits": [], "release": release, "score_kind": "cosine", "timings_ms": times})


def full():
    return httpx.Response(503, headers={"retry-after": "0"}, json={"detail": "queue is full"})


@pytest.mark.parametrize("trouble", [full(), httpx.ConnectError("refused"), httpx.RemoteProtocolError("cut off")])
def test_one_failure_is_tried_again_once(trouble):
    handle, transport = answering(trouble, found())
    with Client("http://test", transport=transport) as client:
        assert client.search("x").hits == []
    assert handle.asked == 2


def test_two_failures_are_told():
    handle, transport = answering(full(), full(), found())
    with Client("http://test", transport=transport) as client, pytest.raises(OverloadedError, match="queue is full"):
        client.search("x")
    assert handle.asked == 2
    _, transport = answering(httpx.ConnectError("refused"), httpx.ConnectError("refused"))
    with Client("http://test", transport=transport) as client, pytest.raises(InputError, match="Is it running"):
        client.search("x")


def test_what_cannot_succeed_is_not_tried_again():
    for answer, error in (
        (httpx.Response(422, json={"detail": "k is wrong"}), EndpointError),
        (httpx.ReadTimeout("slow"), InputError),
    ):
        handle, transport = answering(answer, found())
        with Client("http://test", transport=transport) as client, pytest.raises(error):
            client.search("x", k=0)
        assert handle.asked == 1


def test_an_answer_that_is_no_json_is_still_a_clear_error():
    _, transport = answering(httpx.Response(500, text="<html>gateway</html>"))
    with (
        Client("http://test", transport=transport) as client,
        pytest.raises(EndpointError, match="answered 500: <html>"),
    ):
        client.search("x")


def test_options_reach_the_endpoint():
    seen = []
    transport = httpx.MockTransport(lambda request: (seen.append(json.loads(request.content)), found())[1])
    with Client("http://test/", transport=transport) as client:
        client.search("x", k=3, offset=2, filters={"lang": "en"}, group_by="doc_id", encoder=None)
    assert seen == [{"query": "x", "k": 3, "offset": 2, "filters": {"lang": "en"}, "group_by": "doc_id"}]


def test_the_asynchronous_client_against_the_real_application():
    searcher = make_searcher()
    app = create_app(lambda: engine)
    engine = make_engine(searcher)

    async def scenario():
        async with AsyncClient("http://test", transport=httpx.ASGITransport(app)) as client:
            one = await client.search("sort numbers", k=1)
            many = await client.search_many(["sort", "Datei"], k=1)
            vectors = await client.embeddings(["open a file", "sort"])
            info = await client.info()
            with pytest.raises(EndpointError, match="It has: words") as caught:
                await client.search("x", encoder="other")
            return one, many, vectors, info, caught.value.status

    one, many, vectors, info, status = asyncio.run(scenario())
    assert one.hits[0].passage_id == "p4" and [result.hits[0].passage_id for result in many.results] == ["p4", "p3"]
    assert np.array_equal(vectors, searcher.embed(["open a file", "sort"], None, "query"))
    assert (info.passages, status) == (5, 404)


def test_both_clients_send_the_api_key(monkeypatch):
    seen = []

    def answer(request):
        seen.append(request.headers.get("authorization"))
        return httpx.Response(401, json={"detail": "no"})

    transport = httpx.MockTransport(answer)
    monkeypatch.setenv("RETORT_API_KEY", "from-env")
    for key in ("given", None):
        with Client("http://test", transport=transport, api_key=key) as client, pytest.raises(EndpointError):
            client.info()

        async def ask(key=key):
            async with AsyncClient("http://test", transport=transport, api_key=key) as client:
                await client.info()

        with pytest.raises(EndpointError):
            asyncio.run(ask())
    assert seen == ["Bearer given"] * 2 + ["Bearer from-env"] * 2
