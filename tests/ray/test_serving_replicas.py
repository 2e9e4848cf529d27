"""Two replicas: keys at the door, the metrics of both, limits changed in place, and one of them killed under load."""

import os
import signal
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import httpx
import psutil
import pytest
from tests.serving_world import TOPICS, opened_world

from retort.serving.app import ServeConfig, serving
from retort.serving.client import Client
from retort.serving.front import free_port
from retort.serving.keys import make_key, revoke_key

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with opened_world(tmp_path_factory) as made:
        yield made


@pytest.fixture(scope="module")
def endpoint(world):
    search, _ = make_key(world.store, "ada")
    admin, _ = make_key(world.store, "ops", ["admin"])
    config = ServeConfig(
        store=world.store.uri,
        index="docs-index",
        port=free_port(),
        replicas=2,
        threads=1,
        auth="keys",
        cache_answers=0,
        poll_s=0.2,
    )
    with serving(config) as running:
        yield SimpleNamespace(url=running.url, search=search, admin=admin)


def replicas():
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it may be gone, or dead and not yet taken note of
            if "ServeReplica:retort:search" in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_the_door_is_closed_without_a_key(world, endpoint):
    assert httpx.post(f"{endpoint.url}/v1/search", json={"query": "file"}).status_code == 401
    with Client(endpoint.url, api_key=endpoint.search) as client:
        assert client.search("open file", k=1).hits
    key, record = make_key(world.store, "later")
    deadline = time.monotonic() + 30
    statuses = set()
    while time.monotonic() < deadline and not {200, 401} <= statuses:
        answer = httpx.get(f"{endpoint.url}/v1/info", headers={"x-api-key": key})
        statuses.add(answer.status_code)
        if answer.status_code == 200:
            break
        time.sleep(0.2)
    assert 200 in statuses, "a new key works without a restart"
    revoke_key(world.store, record.id)


def test_metrics_of_any_replica_have_all(endpoint):
    headers = {"authorization": f"Bearer {endpoint.admin}"}
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        text = httpx.get(f"{endpoint.url}/metrics", headers=headers).text
        found = {
            line.split('replica="')[1].split('"')[0]
            for line in text.splitlines()
            if line.startswith("retort_release_version{")
        }
        if len(found) == 2:
            break
        time.sleep(0.5)
    assert len(found) == 2


def test_a_killed_replica_costs_no_request_that_is_sent_again_once(endpoint):
    failures, answered, ended = [], [], threading.Event()

    def ask(number):
        with Client(endpoint.url, api_key=endpoint.search, timeout_s=30) as client:
            while not ended.is_set():
                number += 1
                try:
                    answered.append(bool(client.search(f"read {TOPICS[number % len(TOPICS)]}", k=3).hits))
                except Exception as error:
                    failures.append(repr(error))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    victim = replicas()[0]
    os.kill(victim.pid, signal.SIGKILL)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and len([one for one in replicas() if one.pid != victim.pid]) < 2:
        time.sleep(0.2)
    time.sleep(2)
    ended.set()
    for thread in threads:
        thread.join()
    assert failures == [] and len(answered) > 50 and all(answered)
