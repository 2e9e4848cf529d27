"""After an answer the loop polls for a moment, and then sleeps again."""

import asyncio

import pytest
from tests.serving_world import opened_world

from retort.serving.app import ServeConfig, build
from retort.serving.awake import Awake
from retort.serving.engine import EngineLimits
from retort.serving.fakes import make_engine
from retort.serving.models import SearchRequest

CALLS_IN_TIME = 10


class Clock:
    """A clock that goes on by a millisecond whenever it is read; `yields` counts how often the core was offered to others."""

    def __init__(self, monkeypatch):
        self.now, self.yields = 100.0, 0
        monkeypatch.setattr("retort.serving.awake.os.sched_yield", self.offer)

    def __call__(self):
        self.now += 0.001
        return self.now

    def offer(self):
        self.yields += 1


async def turns(number):
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with opened_world(tmp_path_factory) as made:
        yield made


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_it_polls_until_its_time_is_over_and_no_longer(clock):
    async def scenario():
        awake = Awake(clock)
        awake.stay(CALLS_IN_TIME / 1000)
        assert clock.yields == 1, "it begins at once"
        await turns(100)
        assert 2 <= clock.yields <= CALLS_IN_TIME
        polled = clock.yields
        await turns(20)
        assert clock.yields == polled
        awake.stay(CALLS_IN_TIME / 1000)
        await turns(100)
        assert clock.yields > polled, "and again when asked again"

    asyncio.run(scenario())


def test_asked_again_meanwhile_it_polls_longer_and_not_twice_as_often(clock):
    async def scenario():
        awake = Awake(clock)
        for _ in range(5):
            awake.stay(10.0)
        assert clock.yields == 1
        await turns(3)
        assert clock.yields == 4

    asyncio.run(scenario())


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_for_no_time_it_does_nothing(clock, seconds):
    async def scenario():
        Awake(clock).stay(seconds)
        await turns(3)
        assert clock.yields == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("milliseconds", [0.0, 5.0])
def test_an_engine_stays_awake_after_an_answer_for_as_long_as_it_is_to(monkeypatch, milliseconds):
    seen = []
    monkeypatch.setattr(Awake, "stay", lambda self, seconds: seen.append(seconds))

    async def scenario():
        engine = make_engine(busy_poll_ms=milliseconds)
        await engine.search(SearchRequest(query="open file"))
        await turns(3)
        await engine.close()

    asyncio.run(scenario())
    assert seen == [milliseconds / 1000]


def test_it_does_not_poll_while_others_wait(monkeypatch):
    seen = []
    monkeypatch.setattr(Awake, "stay", lambda self, seconds: seen.append(seconds))

    async def scenario():
        engine = make_engine(busy_poll_ms=5.0, max_batch_queries=1)
        requests = [SearchRequest(query=f"open file {number}") for number in range(4)]
        await asyncio.gather(*map(engine.search, requests))
        await turns(3)
        await engine.close()

    asyncio.run(scenario())
    assert len(seen) == 1, "only after the last of them"


def test_the_limit_can_be_changed_in_flight():
    engine = make_engine()
    assert engine.limits.busy_poll_ms == 0.0
    engine.limit(EngineLimits(busy_poll_ms=2.0))
    assert engine.limits.busy_poll_ms == 2.0


@pytest.mark.parametrize(
    ("options", "milliseconds"),
    [
        ({"replicas": 1, "threads": 1}, 1.0),
        ({"replicas": 3, "threads": 1}, 1.0),
        ({"replicas": 4, "threads": 1}, 0.0),
        ({"replicas": 2, "threads": 2}, 0.0),
        ({"replicas": 1, "max_replicas": 4, "threads": 1}, 0.0),
        ({"replicas": 1, "threads": 4}, 0.0),
        ({"replicas": 4, "threads": 1, "busy_poll_ms": 2.5}, 2.5),
        ({"replicas": 1, "threads": 1, "busy_poll_ms": 0.0}, 0.0),
    ],
)
def test_on_four_cores_replicas_poll_by_default_where_they_leave_a_core_free(world, monkeypatch, options, milliseconds):
    given = []
    monkeypatch.setattr("retort.serving.deployments.application", lambda settings, *_, **__: given.append(settings))
    monkeypatch.setattr("retort.serving.app.available_cores", lambda: 4)
    build(ServeConfig(store=world.store.uri, index=world.index.uri, **options))
    assert given[0].target.busy_poll_ms == milliseconds
