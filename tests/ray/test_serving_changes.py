"""Changes in flight, under load: a real endpoint, real HTTP clients, and not one failed request."""

import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import pytest
from tests.serving_world import TOPICS, index_in, opened_world, tuned_encoder

from retort.releases.release import ArtefactRef, load_release, make_release, save_release
from retort.serving.app import ServeConfig, serving
from retort.serving.client import Client
from retort.serving.front import free_port


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with opened_world(tmp_path_factory) as made:
        made.other_index = index_in(made, "docs-one", shards=1)
        made.tuned = tuned_encoder(made)
        yield made


@pytest.fixture(scope="module")
def endpoint(world):
    save_release(world.store, make_release(world.store, world.index, name="live"))
    config = ServeConfig(store=world.store.uri, index="live", port=free_port(), poll_s=0.2, request_timeout_s=20)
    with serving(config) as running:
        yield SimpleNamespace(url=running.url)


@contextmanager
def load(url, clients=3):
    """Clients that ask without pause and never try again; yields what they saw."""
    seen = SimpleNamespace(answers=[], failures=[])
    ended = threading.Event()

    def ask(number):
        with httpx.Client(base_url=url, timeout=20, trust_env=False) as http:
            while not ended.is_set():
                body = {"query": f"read {TOPICS[number % len(TOPICS)]}", "k": 5}
                number += 1
                try:
                    answer = http.post("/v1/search", json=body)
                    answer.raise_for_status()
                    stamp = answer.json()["release"]
                    seen.answers.append((time.monotonic(), stamp["version"], stamp["index"], stamp["encoder_digest"]))
                except httpx.HTTPError as error:
                    seen.failures.append(repr(error))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def answered_by(seen, version, within_s=20):
    """Seconds until the first answer of this version."""
    began = time.monotonic()
    while time.monotonic() < began + within_s:
        first = next((when for when, found, *_ in seen.answers if found == version), None)
        if first is not None:
            return first - began
        time.sleep(0.005)
    raise AssertionError(f"version {version} did not answer within {within_s} s")


def test_no_request_fails_while_the_release_changes(world, endpoint, capsys):
    store = world.store
    first = load_release(store, "live")
    tuned = make_release(store, world.other_index, {"tuned": world.tuned}, name="live")
    changes = {
        "index swap": first.model_copy(update={"index": ArtefactRef.of(world.other_index)}),
        "encoder swap": tuned,
        "rollback": first,
        "examples only": first.model_copy(update={"examples": ["open a file"]}),
    }
    seconds = {}
    with load(endpoint.url) as seen:
        time.sleep(0.5)
        for what, release in changes.items():
            version = save_release(store, release)
            seconds[what] = answered_by(seen, version)
            time.sleep(0.2)
    assert seen.failures == [] and len(seen.answers) > 50
    known = {1: first, **dict(enumerate(changes.values(), start=2))}
    for _, version, index, encoder in seen.answers:
        release = known[version]
        assert (index, encoder) == (release.index.digest, release.encoders[release.default_encoder].digest)
    with capsys.disabled():
        print("\nseconds from promote to answers:", {what: round(value, 2) for what, value in seconds.items()})


def test_a_release_that_fails_its_check_never_takes_traffic(world, endpoint):
    store = world.store
    good = load_release(store, "live")
    before = store.pointer("release-live").read().version
    lost = good.model_copy(update={"index": good.index.model_copy(update={"key": "0" * 64, "digest": "0" * 64})})
    with load(endpoint.url, clients=2) as seen, Client(endpoint.url) as client:
        version = save_release(store, lost)
        deadline = time.monotonic() + 20
        while client.info().refused is None and time.monotonic() < deadline:
            time.sleep(0.05)
        info = client.info()
        assert (info.version, info.refused.version) == (before, version)
        assert "not in" in info.refused.reason
        text = httpx.get(f"{endpoint.url}/metrics").text
        assert 'retort_release_changes_total{outcome="refused"' in text
        answered_by(seen, save_release(store, good))
        assert client.info().refused is None
    assert seen.failures == [] and version not in {found for _, found, *_ in seen.answers}


def test_an_encoder_of_another_space_is_refused_by_the_replica_too(world, endpoint):
    from retort.models.fakes import tiny_encoder
    from retort.models.imports import encoder_artefact

    tiny_encoder(world.folder / "stranger", [*TOPICS, "other"], seed=9)
    stranger = encoder_artefact(str(world.folder / "stranger"), world.store)
    good = load_release(world.store, "live")
    bad = good.model_copy(
        update={"encoders": {"stranger": ArtefactRef.of(stranger)}, "default_encoder": "stranger"}
    )  # written past make_release, which refuses it
    save_release(world.store, bad)
    with Client(endpoint.url) as client:
        deadline = time.monotonic() + 20
        while client.info().refused is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "passage space" in client.info().refused.reason
        assert client.search("open file").release.encoder_digest == world.encoder.digest
    save_release(world.store, good)
