"""The endpoint for real: Ray Serve, its proxy, a replica with a tiny model and index, and HTTP clients over loopback."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import psutil
import pytest
import yaml
from tests.serving_world import ACTIONS, TOPICS, opened_world

from retort.errors import BusyError, RetortError
from retort.serving.app import ServeConfig, build, serving
from retort.serving.client import Client
from retort.serving.front import check_port, free_port, haproxy_binary


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with opened_world(tmp_path_factory) as made:
        yield made


def is_ours(process, endpoint):
    """Whether it is the HAProxy that listens on the endpoint's port."""
    if process.info["name"] != "haproxy":
        return False
    return any(
        one.laddr.port == endpoint.port and one.status == psutil.CONN_LISTEN for one in process.net_connections("tcp")
    )


class TestEndpoint:
    """One endpoint, many questions."""

    @pytest.fixture(scope="class")
    def endpoint(self, world):
        config = ServeConfig(store=world.store.uri, index="docs-index", port=free_port(), request_timeout_s=20)
        with serving(config) as running:
            yield SimpleNamespace(url=running.url, port=config.port, proxy=running.proxy, config=config)

    @pytest.fixture
    def client(self, endpoint):
        with Client(endpoint.url) as made:
            yield made

    def test_haproxy_is_used_where_it_is_installed(self, endpoint):
        assert endpoint.proxy == ("haproxy" if haproxy_binary() else "ray")

    def test_hits_equal_those_of_the_batch_job(self, world, client):
        from retort.indexing.search import ShardedIndex
        from retort.models.dual_encoder import DualEncoder

        queries = [f"{action} {topic}" for action in ACTIONS[:3] for topic in TOPICS[:4]]
        index, encoder = ShardedIndex.open(world.index), DualEncoder.load(world.encoder.local()).pack()
        expected = index.search(encoder.encode(queries, "query"), 7)
        answer = client.search_many(queries, k=7)
        for row, result in enumerate(answer.results):
            assert [hit.passage_id for hit in result.hits] == index.passage_ids(expected.rows[row])
            assert [hit.score for hit in result.hits] == pytest.approx(expected.scores[row].tolist(), abs=1e-4)
        one = client.search(queries[0], k=7)
        assert [hit.passage_id for hit in one.hits] == [hit.passage_id for hit in answer.results[0].hits]
        assert (one.release.index, one.release.encoder_digest) == (world.index.digest, world.encoder.digest)
        assert (one.score_kind, one.degraded) == ("cosine", False)
        assert one.hits[0].text.startswith("How to") and one.hits[0].snippet.text == one.hits[0].text

    def test_a_served_vector_equals_the_batch_jobs(self, world, client):
        table = world.corpus.table()
        stored = np.stack(world.embeddings.table().column("vector").to_numpy(zero_copy_only=False)).astype(np.float32)
        texts = [
            f"{title}\n{text}" if title else text
            for title, text in zip(table["title"].to_pylist(), table["text"].to_pylist())
        ]
        served = client.embeddings(texts[:40], input_type="passage")
        assert np.abs(served - stored[:40]).max() < 1e-3  # float16 is what the job keeps

    def test_filters_groups_and_pages_work_over_http(self, client):
        titles = {hit.title for hit in client.search("open file", k=20, filters={"title": ["file", "path"]}).hits}
        assert titles <= {"file", "path"} and titles
        whole = [hit.passage_id for hit in client.search("open file", k=6).hits]
        assert [hit.passage_id for hit in client.search("open file", k=3, offset=3).hits] == whole[3:]
        documents = [hit.doc_id for hit in client.search("open file", k=10, group_by="doc_id").hits]
        assert len(documents) == len(set(documents))

    @pytest.mark.parametrize(
        ("method", "path", "content", "status"),
        [
            ("POST", "/v1/search", b"", 400),
            ("POST", "/v1/search", b'{"query":"x","k":1000000}', 422),
            ("POST", "/v1/search", b'{"query":"\\ud800"}', 400),
            ("POST", "/v1/search", b'{"query":"' + b"a" * 1_000_000 + b'"}', 422),
            ("POST", "/v1/search", b'{"query":"' + b"a" * 3_000_000 + b'"}', 413),
            ("POST", "/v1/search", b'{"query":"x","encoder":"nobody"}', 404),
            ("GET", "/v1/search", b"", 405),
            ("GET", "/nope", b"", 404),
        ],
    )
    def test_problems_come_through_the_proxy_as_problems(self, endpoint, method, path, content, status):
        answer = httpx.request(method, f"{endpoint.url}{path}", content=content, headers={"x-request-id": "mine-1"})
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert answer.headers.get_list("x-request-id") == ["mine-1"] and answer.json()["request_id"] == "mine-1"

    def test_pages_and_operations_are_there(self, endpoint):
        for path, kind in (
            ("/", "text/html"),
            ("/docs", "text/html"),
            ("/openapi.json", "application/json"),
            ("/metrics", "text/plain"),
        ):
            answer = httpx.get(f"{endpoint.url}{path}")
            assert answer.status_code == 200 and answer.headers["content-type"].startswith(kind)
        assert httpx.get(f"{endpoint.url}/readyz").json() == {"status": "ready", "release": "docs-index"}

    def test_nothing_of_it_can_be_reached_from_other_machines(self, endpoint):
        ours = []
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == endpoint.port:
                ours.append(connection.laddr.ip)
        assert ours and set(ours) == {"127.0.0.1"}
        haproxies = [process for process in psutil.process_iter(["name", "cmdline"]) if is_ours(process, endpoint)]
        assert bool(haproxies) == (endpoint.proxy == "haproxy")
        for process in haproxies:
            listening = [one.laddr.ip for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
            assert set(listening) == {"127.0.0.1"}, "statistics or metrics are open to the network"
        outside = [
            address.address
            for addresses in psutil.net_if_addrs().values()
            for address in addresses
            if address.family == socket.AF_INET and not address.address.startswith("127.")
        ]
        for address in outside:
            with pytest.raises(OSError):
                socket.create_connection((address, endpoint.port), timeout=2)

    def test_many_clients_at_once_get_their_own_answers(self, endpoint, client):
        expected = {topic: client.search(f"read {topic}", k=3).hits[0].passage_id for topic in TOPICS}

        def ask(number):
            topic = TOPICS[number % len(TOPICS)]
            with Client(endpoint.url) as own:
                return [own.search(f"read {topic}", k=3).hits[0].passage_id == expected[topic] for _ in range(5)]

        with ThreadPoolExecutor(16) as pool:
            assert all(all(answers) for answers in pool.map(ask, range(32)))

    def test_clients_that_hang_up_leave_a_working_endpoint(self, endpoint, client):
        body = b'{"queries":[' + b",".join([b'"open file and read value"'] * 64) + b"]}"
        head = (
            b"POST /v1/search HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            % len(body)
        )
        for number in range(40):
            with socket.create_connection(("127.0.0.1", endpoint.port), timeout=5) as connection:
                connection.sendall(head + (body if number % 2 else body[:100]))
        assert client.search("open file", k=1).hits

    @pytest.mark.slow
    def test_slow_headers_are_ended_and_hold_nobody_up(self, endpoint, client):
        if endpoint.proxy != "haproxy":
            pytest.skip("Ray's own proxy waits for headers without an end")
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=40) as connection:
            connection.sendall(b"POST /v1/search HTTP/1.1\r\nhost: x\r\n")
            assert client.search("open file", k=1).hits
            assert b"".join(iter(lambda: connection.recv(1000), b"")).startswith(b"HTTP/1.1 408 ")  # and then it closes
        assert time.monotonic() - began < 30

    def test_a_second_endpoint_is_refused_with_one_clear_error(self, endpoint, world):
        with pytest.raises(BusyError, match=f"Port {endpoint.port} on 127.0.0.1 is taken"), serving(endpoint.config):
            pass
        other = endpoint.config.model_copy(update={"port": free_port()})
        with pytest.raises(BusyError, match="Ray Serve runs on this cluster already"), serving(other):
            pass
        assert httpx.get(f"{endpoint.url}/readyz").status_code == 200


@pytest.mark.slow
def test_it_ends_what_it_started_and_rays_own_proxy_serves_as_well(world):
    import ray

    config = ServeConfig(
        store=world.store.uri, index=world.index.uri, encoder=world.encoder.uri, port=free_port(), proxy="ray"
    )
    with serving(config) as running, Client(running.url) as client:
        assert running.proxy == "ray" and client.search("open file", k=2).hits
        answer = httpx.get(f"{running.url}/nope", headers={"x-request-id": "a"})
        assert answer.status_code == 404 and answer.headers.get_list("x-request-id") == ["a"]
    check_port("127.0.0.1", config.port)
    assert ray.is_initialized()


def test_a_replica_that_cannot_start_says_why(world, tmp_path):
    from retort.store import open_store

    shutil.copytree(world.store.uri.removeprefix("file://"), tmp_path / "spoilt")
    store = open_store(str(tmp_path / "spoilt"))
    shard = store.get("docs-index", "index").local("shard-00001.faiss")
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    config = ServeConfig(store=store.uri, index="docs-index", port=free_port())
    with pytest.raises(RetortError, match=r"could not start: .*shard-00001\.faiss has checksum"), serving(config):
        pass
    check_port("127.0.0.1", config.port)


@pytest.mark.slow
def test_run_serves_until_ctrl_c_and_leaves_nothing_behind(world):
    port = free_port()
    code = (
        "import sys; from retort.serving.app import ServeConfig, run\n"
        f"run(ServeConfig(store={world.store.uri!r}, index='docs-index', port={port}))"
    )
    # Its own process group: Ctrl-C in a terminal reaches every process of the group, Ray's own ones too.
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        lines = [process.stdout.readline().strip() for _ in range(3)]
        assert lines[0].split()[-1] == f"http://127.0.0.1:{port}/"
        with Client(f"http://127.0.0.1:{port}") as client:
            assert client.search("open file", k=1).hits
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 0
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
        check_port("127.0.0.1", port)
    finally:
        if process.poll() is None:
            process.kill()


def test_the_serve_config_that_ships_is_valid_and_builds_an_application(world, monkeypatch):
    from ray.serve import Application
    from ray.serve.schema import ServeDeploySchema
    from serve_apps import search

    text = (Path(search.__file__).parent / "search.yaml").read_text()
    schema = ServeDeploySchema.model_validate(yaml.safe_load(text))
    (application,) = schema.applications
    assert application.import_path == "serve_apps.search:app" and schema.http_options.host == "127.0.0.1"
    config = ServeConfig.model_validate({**application.args, "store": world.store.uri, "index": "docs-index"})
    deployment = search.app(config)._bound_deployment
    assert (deployment.name, deployment.num_replicas, deployment.max_ongoing_requests) == ("search", 1, 512)
    # As a wheel's users name it in their own file: Serve gives it the plain `args`.
    assert build(config.model_dump())._bound_deployment.max_ongoing_requests == 512
    scattered = ServeConfig.model_validate({**config.model_dump(), "placement": "scattered", "max_replicas": 3})
    front = search.app(scattered)._bound_deployment
    shards = [argument for argument in front.init_args if isinstance(argument, Application)]
    assert [one._bound_deployment.name for one in shards] == ["shard-0", "shard-1"]
    for one in (front, *(shard._bound_deployment for shard in shards)):
        scaling = one._deployment_config.autoscaling_config
        assert (scaling.min_replicas, scaling.max_replicas) == (1, 3)


def test_what_the_config_says_can_change_in_place_is_understood_by_a_replica():
    from retort.serving.replica import ReplicaTarget

    text = (Path(__file__).parents[2] / "serve_apps" / "search.yaml").read_text()
    lines = text[text.index("# deployments:") :].splitlines()
    (deployment,) = yaml.safe_load("\n".join(line.strip().removeprefix("# ") for line in lines))["deployments"]
    assert deployment["name"] == "search"
    assert set(deployment["user_config"]) <= set(ReplicaTarget.model_fields)
