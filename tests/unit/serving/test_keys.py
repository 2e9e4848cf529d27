"""API keys: hashed at rest, scopes, rates, revocation; and the gate that asks for them."""

import asyncio
import json
import time

import httpx
import pytest

from retort.cli import main
from retort.errors import ConfigError, NotFoundError
from retort.serving.api import create_app
from retort.serving.fakes import make_engine
from retort.serving.gate import Caller, Gate
from retort.serving.keys import KeyRing, list_keys, make_key, revoke_key
from retort.serving.problems import RequestError
from retort.store import open_store


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


def test_the_store_never_holds_the_key(store):
    key, record = make_key(store, "ada", ["search", "admin"], rate="10/second", days=2)
    text = "".join(path.read_text() for path in (store.area.root / "keys").iterdir())
    assert key not in text and key.split("_", 2)[2] not in text and record.sha256 in text
    assert list_keys(store) == [record]
    ring = KeyRing(store)
    assert ring.check(key) == record
    for wrong in (
        key[:-1] + ("A" if key[-1] != "A" else "B"),
        key + "x",
        key.upper(),
        "",
        "rk_",
        f"rk_{record.id}_" + "a" * 43,
    ):
        assert ring.check(wrong) is None
    ring.close()


def test_a_revoked_key_stops_working_and_an_expired_one_too(store):
    key, _ = make_key(store, "ada")
    ended, _ = make_key(store, "eve", days=-1)
    ring = KeyRing(store, refresh_s=0.02)
    assert ring.check(key) and ring.check(ended) is None
    revoke_key(store, "ada")
    deadline = time.monotonic() + 5
    while ring.check(key) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ring.check(key) is None
    ring.close()
    with pytest.raises(NotFoundError, match=r"no key 'ada' .* \(eve\)"):
        revoke_key(store, "ada")


@pytest.mark.parametrize("change", [dict.clear, lambda record: record.update(rate="many")])
def test_a_spoilt_record_opens_nothing_and_hinders_nobody(store, change, caplog):
    key, record = make_key(store, "ada")
    _, other = make_key(store, "bob")
    path = store.area.root / "keys" / f"{record.id}.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    ring = KeyRing(store)
    ring.refresh()
    ring.close()
    assert [one.message for one in caplog.records] == [f"{path} is no key record"], "told once, not at every refresh"
    assert list_keys(store) == [other] and ring.check(key) is None
    assert revoke_key(store, "bob") == other


@pytest.mark.parametrize("fields", [{"rate": "many"}, {"scopes": ["root"]}, {"scopes": []}, {"name": ""}])
def test_a_key_that_means_nothing_is_not_made(store, fields):
    with pytest.raises(ConfigError):
        make_key(store, fields.pop("name", "ada"), **fields)
    assert list_keys(store) == []


def asked(app, *requests):
    async def scenario():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return [await client.request(method, path, **options) for method, path, options in requests]

    return asyncio.run(scenario())


def bearer(key):
    return {"authorization": f"Bearer {key}"}


def test_every_door_has_its_scope(store):
    search, _ = make_key(store, "ada")
    admin, _ = make_key(store, "ops", ["admin"])
    engine = make_engine()
    app = create_app(lambda: engine, gate=Gate(KeyRing(store)))
    body = {"json": {"query": "file"}}
    statuses = {
        (path, who): answer.status_code
        for path, method, options in (
            ("/v1/search", "POST", body),
            ("/v1/embeddings", "POST", {"json": {"input": "x"}}),
            ("/v1/info", "GET", {}),
            ("/metrics", "GET", {}),
            ("/healthz", "GET", {}),
            ("/", "GET", {}),
        )
        for who, headers in (
            ("nobody", {}),
            ("search", bearer(search)),
            ("admin", bearer(admin)),
            ("wrong", bearer("rk_x")),
        )
        for answer in asked(app, (method, path, {**options, "headers": headers}))
    }
    for path in ("/v1/search", "/v1/embeddings", "/v1/info"):
        assert [statuses[path, who] for who in ("nobody", "search", "admin", "wrong")] == [401, 200, 403, 401]
    assert [statuses["/metrics", who] for who in ("nobody", "search", "admin", "wrong")] == [401, 403, 200, 401]
    assert {statuses[path, who] for path in ("/healthz", "/") for who in ("nobody", "wrong")} == {200}
    (answer,) = asked(app, ("POST", "/v1/search", body))
    assert answer.headers["www-authenticate"] == "Bearer" and "retort keys make" in answer.json()["detail"]
    (answer,) = asked(app, ("POST", "/v1/search", {**body, "headers": {"x-api-key": search}}))
    assert answer.status_code == 200


def test_the_openai_client_sends_its_key_the_right_way(store):
    import openai

    key, _ = make_key(store, "ada")
    engine = make_engine()
    app = create_app(lambda: engine, gate=Gate(KeyRing(store)))

    async def scenario():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
            client = openai.AsyncOpenAI(api_key=key, base_url="http://test/v1", http_client=http)
            return await client.embeddings.create(model="default", input=["read"], encoding_format="float")

    assert len(asyncio.run(scenario()).data[0].embedding) > 0


def charged(gate, caller, *costs):
    async def scenario():
        found = []
        for cost in costs:
            try:
                await gate.charge(caller, cost)
                found.append(200)
            except RequestError as error:
                found.append((error.status, error.headers))
        return found

    return asyncio.run(scenario())


def test_queries_are_counted_per_key():
    gate = Gate(rate="10/year")
    ada, eve = Caller("ada", "10/year"), Caller("eve", "2/year")
    first = charged(gate, ada, 4, 6, 1)
    assert first[:2] == [200, 200] and first[2][0] == 429 and 1 <= int(first[2][1]["retry-after"]) <= 366 * 86400
    assert [one if one == 200 else one[0] for one in charged(gate, eve, 1, 1, 1)] == [200, 200, 429]
    assert charged(gate, ada, 11)[0][0] == 429, "more at once than ever allowed"
    assert charged(gate, Caller("free", None), 10_000) == [200]


def test_replicas_that_count_for_themselves_allow_their_share():
    assert [
        one if one == 200 else one[0] for one in charged(Gate(rate="10/year", replicas=2), Caller("a", "10/year"), 5, 1)
    ] == [200, 429]


def test_a_rate_or_storage_that_is_none_is_told():
    with pytest.raises(ConfigError, match="COUNT/PERIOD"):
        Gate(rate="fast")
    with pytest.raises(ConfigError, match="rate_storage 'paper://'"):
        Gate(rate="1/second", storage="paper://")


def test_too_many_queries_get_429_over_http(store):
    key, _ = make_key(store, "ada", rate="2/year")
    engine = make_engine()
    app = create_app(lambda: engine, gate=Gate(KeyRing(store)))
    request = ("POST", "/v1/search", {"json": {"query": "file"}, "headers": bearer(key)})
    answers = asked(app, request, request, request)
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].headers["retry-after"] and answers[2].json()["type"].endswith(":rate")


def test_keys_from_the_command_line(store, capsys):
    assert (
        main(
            ["keys", "make", "ada", "--scope", "search", "--scope", "admin", "--rate", "5/second", "--store", store.uri]
        )
        == 0
    )
    key = capsys.readouterr().out.split()[0]
    assert KeyRing(store).check(key).scopes == ["search", "admin"]
    assert main(["keys", "list", "--store", store.uri]) == 0
    told = capsys.readouterr().out
    assert "ada" in told and "5/second" in told and key not in told
    assert main(["keys", "revoke", "ada", "--store", store.uri]) == 0 and list_keys(store) == []
    assert main(["keys", "burn"]) == 2
    assert main(["keys", "make", "ada", "--scope", "root", "--store", store.uri]) == 2
