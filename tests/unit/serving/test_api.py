"""The HTTP application under an in-process client, over a world whose answers are known."""

import asyncio
import base64
import threading

import httpx
import numpy as np
import openai
import pytest

from retort.indexing.search import checked_queries
from retort.releases.routing import Guard
from retort.serving.api import create_app, openapi_document
from retort.serving.engine import SearchEngine
from retort.serving.fakes import ExactIndex, make_engine, make_searcher, make_served
from retort.serving.guarding import Watch
from retort.serving.models import Problem, SearchResponse
from retort.serving.served import Served


def asked(app, *requests):
    """The answers to requests sent one after the other, on one event loop that has turned in between, as with a socket."""

    async def scenario():
        found = []
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            for method, path, options in requests:
                found.append(await client.request(method, path, **options))
                await asyncio.sleep(0)
        return found

    answers = asyncio.run(scenario())
    return answers[0] if len(answers) == 1 else answers


def search(app, **body):
    return asked(app, ("POST", "/v1/search", {"json": body}))


def serve(engine=None, **options):
    engine = engine or make_engine()
    return create_app(lambda: engine, **options)


def test_one_query_gives_hits_stamps_and_timings():
    answer = search(serve(), query="read the file", k=2)
    assert answer.status_code == 200
    body = SearchResponse.model_validate(answer.json())
    assert [hit.passage_id for hit in body.hits] == ["p1", "p0"]
    assert (body.release.name, body.release.index, body.release.encoder_digest) == (
        "trial",
        "index-digest",
        "words-digest",
    )
    assert (body.score_kind, body.degraded, body.missing_shards) == ("inner_product", False, [])
    times = body.timings_ms
    assert times.total >= times.encode + times.search + times.fetch > 0


def test_several_queries_answer_in_their_order():
    answer = search(serve(), queries=["sort numbers", "Datei lesen"], k=1).json()
    assert [result["hits"][0]["passage_id"] for result in answer["results"]] == ["p4", "p3"]
    assert "hits" not in answer


def test_highlight_can_be_left_out():
    (hit,) = search(serve(), query="sort", k=1, highlight=False).json()["hits"]
    assert hit["snippet"] is None and hit["title_words"] == []


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"query": "x", "encoder": "other"}, 404, "It has: words"),
        ({"query": "x", "filters": {"nope": 1}}, 422, "no field 'nope'"),
        ({"query": "x", "filters": {"year": {}}}, 422, "filters.year"),
        ({"query": "x", "rerank": 10}, 422, "no re-ranking stage"),
        ({"query": "x", "hybrid": True}, 422, "no BM25 stage"),
        ({"query": "x" * 9000}, 422, "at most 8000"),
        ({"query": "x", "group_by": "lang"}, 422, "group_by"),
        ({"query": "x", "queries": ["y"]}, 422, "either query or queries"),
        ({}, 422, "either query or queries"),
        ({"queries": []}, 422, "queries"),
        ({"query": "x", "k": 0}, 422, "k"),
        ({"query": "x", "k": 1_000_000}, 422, "k"),
        ({"query": "x", "k": "10"}, 422, "k"),
        ({"query": "x", "k": 1.5}, 422, "k"),
        ({"query": "x", "offset": -1}, 422, "offset"),
        ({"query": "x", "qwery": 1}, 422, "qwery"),
        ({"query": 5}, 422, "query"),
        ({"query": None}, 422, "either query or queries"),
        ({"query": " \n"}, 422, "empty"),
        ({"query": "a\x00b"}, 422, "U+0000"),
        ({"query": "a\x9bb"}, 422, "U+009B"),
    ],
)
def test_what_does_not_fit_is_named(body, status, words):
    answer = search(serve(), **body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate(answer.json())
    assert words in problem.detail
    assert (problem.status, problem.instance, problem.request_id) == (
        status,
        "/v1/search",
        answer.headers["x-request-id"],
    )


def test_unknown_paths_and_methods_are_problems_too():
    app = serve()
    nowhere, method = asked(app, ("GET", "/nope", {}), ("GET", "/v1/search", {}))
    assert (nowhere.status_code, method.status_code, method.headers["allow"]) == (404, 405, "POST")
    for answer in (nowhere, method):
        assert answer.headers["content-type"] == "application/problem+json"
        Problem.model_validate(answer.json())


def test_bodies_have_a_limit_a_type_and_a_language():
    app = serve(max_body_bytes=1000)
    big, huge, form, text = asked(
        app,
        ("POST", "/v1/search", {"json": {"query": "x" * 1000}}),
        ("POST", "/v1/search", {"content": iter_bytes(100_000)}),
        ("POST", "/v1/search", {"data": {"query": "x"}}),
        ("POST", "/v1/search", {"content": b"{", "headers": {"content-type": "application/json; charset=utf-8"}}),
    )
    assert [answer.status_code for answer in (big, huge, form, text)] == [413, 413, 415, 400]


@pytest.mark.parametrize("path", ["/v1/search", "/v1/embeddings"])
@pytest.mark.parametrize("begun", [b"", b'{"query":'])
def test_a_body_that_does_not_come_is_408_and_the_connection_ends(path, begun):
    async def stalled():
        if begun:
            yield begun
        await asyncio.sleep(20)
        yield b'"sort"}'

    app = serve(body_timeout_s=0.1)
    late, slow = asked(
        app,
        ("POST", path, {"content": stalled()}),
        ("POST", "/v1/search", {"content": in_pieces(b'{"query":"sort"}')}),
    )
    assert (late.status_code, late.headers["connection"]) == (408, "close")
    assert "within 0.1 s" in Problem.model_validate(late.json()).detail
    assert slow.status_code == 200


async def in_pieces(body):
    for start in range(0, len(body), 5):
        yield body[start : start + 5]
        await asyncio.sleep(0)


def test_whoever_leaves_while_a_body_is_read_is_let_go():
    reached = asyncio.Event()

    async def stalled():
        reached.set()
        await asyncio.sleep(20)
        yield b"{}"

    async def scenario():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(serve()), base_url="http://test") as client:
            asking = asyncio.create_task(client.post("/v1/search", content=stalled()))
            await reached.wait()
            asking.cancel()
            await asking

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(scenario())


async def iter_bytes(size):
    for _ in range(size // 1000):
        yield b" " * 1000


def test_the_callers_request_id_is_kept_when_it_is_harmless():
    app = serve()
    own, bad, none = asked(
        app,
        ("GET", "/healthz", {"headers": {"x-request-id": "abc-1"}}),
        ("GET", "/healthz", {"headers": {"x-request-id": "<script>" * 40}}),
        ("GET", "/healthz", {}),
    )
    assert own.headers["x-request-id"] == "abc-1"
    assert "<" not in bad.headers["x-request-id"] and bad.headers["x-request-id"] != none.headers["x-request-id"]


def test_a_mistake_of_ours_is_a_plain_500_and_the_next_request_works():
    searcher = make_searcher()
    broken = search_once_broken(searcher)
    app = serve(make_engine(searcher))
    first, second = asked(app, *[("POST", "/v1/search", {"json": {"query": "sort"}})] * 2)
    assert broken.is_set()
    assert first.status_code == 500 and "secret" not in first.text and first.json()["title"] == "Internal"
    assert second.status_code == 200


def search_once_broken(searcher):
    """The first search raises what nobody expects."""
    real, broken = searcher.search, threading.Event()

    def search(queries):
        if not broken.is_set():
            broken.set()
            raise ZeroDivisionError("secret path /home/x")
        return real(queries)

    searcher.search = search
    return broken


class CheckedIndex(ExactIndex):
    """Looks at what it is asked as a real one does."""

    def search(self, vectors, k, allowed=None):
        return super().search(checked_queries(vectors, k, vectors.shape[1], "the index"), k, allowed)


def test_vectors_that_no_index_takes_are_our_mistake_and_the_guard_hears_of_it():
    searcher = make_searcher(index=CheckedIndex)
    words = searcher.encoder(None)[1]
    words.encode = lambda texts, side: np.full((len(texts), words.dimension), np.nan, dtype=np.float32)
    watch = Watch(Guard(min_requests=1, max_error_share=0.0), began_s=0)
    made = make_served(searcher)
    answer = search(serve(SearchEngine(Served(made.searcher, made.identity, watch=watch))), query="sort")
    assert answer.status_code == 500 and "NaN" not in answer.text
    assert "1 of 1 requests failed" in watch.verdict(1)


def test_an_unknown_filter_is_refused_before_it_can_spoil_a_batch():
    searcher = make_searcher()
    real, batches = searcher.search, []
    searcher.search = lambda queries: (batches.append(len(queries)), real(queries))[1]
    app = serve(make_engine(searcher))
    filtered = [{"query": "sort", "filters": {name: 2001}} for name in ("year", "yeer", "lang")]
    answers = asked(app, *[("POST", "/v1/search", {"json": body}) for body in filtered])
    assert [answer.status_code for answer in answers] == [200, 422, 200] and batches == [1, 1]
    assert "no field 'yeer'" in answers[1].json()["detail"]


def test_when_full_the_answer_is_503_at_once_with_retry_after():
    searcher = make_searcher()
    real, release, entered = searcher.search, threading.Event(), threading.Event()

    def slow(queries):
        entered.set()
        assert release.wait(10)
        return real(queries)

    searcher.search = slow
    app = serve(make_engine(searcher, max_queued_queries=2, max_batch_queries=1))

    async def scenario():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            send = lambda: asyncio.create_task(client.post("/v1/search", json={"query": "sort"}))  # noqa: E731
            running = send()
            while not entered.is_set():
                await asyncio.sleep(0.001)
            waiting = [send(), send()]
            await asyncio.sleep(0.05)
            refused = await asyncio.wait_for(send(), 2)
            release.set()
            return refused, await asyncio.gather(running, *waiting), await client.get("/metrics")

    refused, answered, metrics = asyncio.run(scenario())
    assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
    assert refused.headers["content-type"] == "application/problem+json"
    assert [answer.status_code for answer in answered] == [200, 200, 200]
    assert 'retort_refused_total{replica=""} 1.0' in metrics.text


def test_a_late_answer_is_504_and_the_lane_goes_on():
    searcher = make_searcher()
    real, release = searcher.search, threading.Event()
    searcher.search = lambda queries: (release.wait(10), real(queries))[1]
    app = serve(make_engine(searcher, request_timeout_s=0.1))

    async def scenario():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            late = await client.post("/v1/search", json={"query": "sort"})
            release.set()
            return late, await client.post("/v1/search", json={"query": "sort"})

    late, after = asyncio.run(scenario())
    assert (late.status_code, after.status_code) == (504, 200)


def test_embeddings_have_openais_shape_and_the_encoders_vectors():
    searcher = make_searcher()
    expected = searcher.embed(["open a file", "sort"], None, "query")
    app = serve(make_engine(searcher))

    async def scenario():
        async with openai.AsyncOpenAI(
            api_key="none",
            base_url="http://test/v1",
            http_client=httpx.AsyncClient(transport=httpx.ASGITransport(app)),
            max_retries=0,
        ) as client:
            plain = await client.embeddings.create(
                model="words", input=["open a file", "sort"], encoding_format="float"
            )
            packed = await client.embeddings.create(model="default", input="open a file")  # asks for base64 by itself
            with pytest.raises(openai.NotFoundError, check=lambda error: "It has: words" in error.body["detail"]):
                await client.embeddings.create(model="text-embedding-3-small", input="x")
            with pytest.raises(
                openai.UnprocessableEntityError, check=lambda error: "list of texts" in error.body["detail"]
            ):
                await client.embeddings.create(model="words", input=[1, 2, 3])
            with pytest.raises(
                openai.UnprocessableEntityError, check=lambda error: "dimensions is 3" in error.body["detail"]
            ):
                await client.embeddings.create(model="words", input="x", dimensions=3)
            return plain, packed

    plain, packed = asyncio.run(scenario())
    assert np.array_equal(np.array([item.embedding for item in plain.data], np.float32), expected)
    assert np.array_equal(np.array(packed.data[0].embedding, np.float32), expected[0])
    assert plain.usage.prompt_tokens == 4 and plain.object == "list" and plain.data[1].index == 1


def test_base64_is_little_endian_float32():
    answer = asked(serve(), ("POST", "/v1/embeddings", {"json": {"input": "open", "encoding_format": "base64"}})).json()
    vector = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    assert vector.sum() == 1.0


def test_health_readiness_and_metrics():
    app = serve()
    health, ready, _, metrics = asked(
        app,
        ("GET", "/healthz", {}),
        ("GET", "/readyz", {}),
        ("POST", "/v1/search", {"json": {"query": "sort"}}),
        ("GET", "/metrics", {}),
    )
    assert health.json() == {"status": "ok"} and ready.json() == {"status": "ready", "release": "trial"}
    assert 'retort_requests_total{replica="",route="/v1/search",status="200"} 1.0' in metrics.text
    assert 'retort_queries_total{encoder="words",replica=""} 1.0' in metrics.text
    assert 'retort_stage_seconds_count{replica="",stage="encode"} 1.0' in metrics.text


def test_raw_paths_never_become_metric_labels():
    app = serve()
    answers = asked(app, *[("GET", f"/secret-{number}", {}) for number in range(3)], ("GET", "/metrics", {}))
    assert "secret" not in answers[-1].text and 'route="other",status="404"} 3.0' in answers[-1].text


def test_info_says_what_is_served():
    info = asked(
        serve(make_engine(make_searcher(encoders=("base", "tuned")), examples=["a query"])), ("GET", "/v1/info", {})
    ).json()
    assert [encoder["name"] for encoder in info["encoders"]] == ["base", "tuned"]
    assert (info["passages"], info["default_encoder"], info["examples"]) == (5, "base", ["a query"])


def test_the_openapi_document_is_closed_and_describes_bodies_answers_and_problems():
    document = openapi_document(serve())
    schemas = document["components"]["schemas"]
    wanted = {ref.split("/")[-1] for ref in references(document)}
    assert wanted <= set(schemas)
    post = document["paths"]["/v1/search"]["post"]
    assert post["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/SearchRequest")
    assert post["responses"]["503"]["content"]["application/problem+json"]["schema"]["$ref"].endswith("/Problem")
    assert all(field.get("description") for field in schemas["SearchRequest"]["properties"].values())


def references(value):
    if isinstance(value, dict):
        return {value["$ref"]} if "$ref" in value else set().union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_the_document_says_that_a_key_may_be_needed():
    document = openapi_document(serve())
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer" and {} in document["security"]
