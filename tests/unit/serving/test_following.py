"""Following a release: what is taken up, what is refused, and what a request in flight sees."""

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from retort.errors import CorruptError, NotFoundError, OverloadedError, StorageError
from retort.releases.release import ArtefactRef, Release, save_release
from retort.releases.usage import in_use
from retort.serving.engine import SearchEngine
from retort.serving.fakes import PASSAGES, make_engine, make_searcher, make_served
from retort.serving.following import ReleaseFollower, Target, first_served
from retort.serving.models import SearchRequest
from retort.serving.served import ReleaseIdentity, Served
from retort.store import open_store


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


def release(name="live", index="a", **fields):
    ref = lambda kind, text: ArtefactRef(kind=kind, name=text, key=text * 8, digest=text * 8)  # noqa: E731
    return Release(
        name=name, index=ref("index", index), corpus=ref("corpus", "c"), encoders={"words": ref("encoder", "e")},
        default_encoder="words", created="2026-01-01T00:00:00+00:00", **fields,
    )  # fmt: skip


def opened(release, version):
    """Index `bad` fails its check; the others are the small world."""
    if release.index.name.startswith("bad"):
        raise CorruptError(f"{release.index.name} is broken")
    return Served(make_searcher(), ReleaseIdentity.of(release, version), ())


def following(store, open_=opened, name="live", **target):
    served, refused = first_served(store, name, open_)
    engine = SearchEngine(served)
    engine.refused = refused
    return engine, ReleaseFollower(store, engine, open_, Target(name, **target))


def metric(engine, name, **labels):
    return engine.metrics.registry.get_sample_value(name, {"replica": "", **labels})


def test_a_new_version_is_taken_up_once(store):
    save_release(store, release())
    engine, follower = following(store)
    assert not follower.look() and engine.info().version == 1
    save_release(store, release(index="b"))
    assert follower.look() and not follower.look()
    assert (engine.info().version, engine.info().index) == (2, "b")
    assert metric(engine, "retort_release_version") == 2
    assert metric(engine, "retort_release_changes_total", outcome="applied") == 1


def test_a_version_that_fails_its_check_never_takes_traffic(store):
    save_release(store, release())
    engine, follower = following(store)
    save_release(store, release(index="bad"))
    assert not follower.look() and not follower.look()
    info = engine.info()
    assert (info.version, info.refused.version, info.refused.reason) == (1, 2, "bad is broken")
    assert metric(engine, "retort_release_changes_total", outcome="refused") == 1
    save_release(store, release(index="b"))
    assert follower.look() and engine.info().refused is None and engine.info().version == 3


def test_a_mistake_of_ours_while_opening_is_a_refusal_too(store):
    save_release(store, release())

    def clumsy(release, version):
        return opened(release, version) if version == 1 else 1 / 0

    engine, follower = following(store, clumsy)
    save_release(store, release(index="b"))
    assert not follower.look() and engine.info().refused.reason.startswith("ZeroDivisionError")


def test_what_the_store_could_not_give_is_tried_again(store):
    save_release(store, release())
    tries = []

    def flaky(release, version):
        tries.append(version)
        if tries.count(2) in (1, 2):
            raise StorageError("the bucket is away")
        return opened(release, version)

    engine, follower = following(store, flaky)
    save_release(store, release(index="b"))
    assert [follower.look() for _ in range(3)] == [False, False, True]
    assert metric(engine, "retort_release_changes_total", outcome="refused") == 1, "said once"


def test_a_replica_that_starts_goes_back_to_the_newest_good_version(store):
    for index in ("a", "b", "bad"):
        save_release(store, release(index=index))
    engine, follower = following(store)
    assert (engine.info().version, engine.info().refused.version) == (2, 3)
    assert not follower.look()


def test_without_a_good_version_a_replica_says_what_is_wrong_with_the_newest(store):
    for index in ("bad", "bad2"):
        save_release(store, release(index=index))
    with pytest.raises(CorruptError, match="bad2 is broken"):
        following(store)
    with pytest.raises(NotFoundError, match="no release 'dead'"):
        following(store, name="dead")


def test_another_target_is_followed_from_the_next_look_on(store):
    save_release(store, release())
    save_release(store, release(name="other", index="b"))
    engine, follower = following(store)
    follower.target = Target("other")
    assert follower.look() and engine.info().release == "other"


def test_the_thread_looks_by_itself_and_survives_a_store_that_is_away(store, monkeypatch):
    save_release(store, release())
    engine, follower = following(store, poll_s=0.01)
    real, away = type(store).pointer, threading.Event()

    def pointer(self, name):
        if not away.is_set():
            away.set()
            raise StorageError("away")
        return real(self, name)

    monkeypatch.setattr(type(store), "pointer", pointer)
    follower.start()
    assert away.wait(5)
    save_release(store, release(index="b"))
    deadline = time.monotonic() + 5
    while engine.info().version != 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    follower.stop()
    assert engine.info().version == 2


def test_a_request_in_flight_keeps_the_release_it_began_with():
    """Queued before the swap, run after it, in one batch with a request of the new release."""
    engine = make_engine()
    other = make_served(make_searcher(PASSAGES[3:]), version=7)

    async def scenario():
        before = asyncio.ensure_future(engine.search(SearchRequest(query="read the file", k=1)))
        await asyncio.sleep(0)  # it is in the queue now
        engine.swap(other)
        after = asyncio.ensure_future(engine.search(SearchRequest(query="Datei", k=1)))
        return await asyncio.gather(before, after)

    first, second = asyncio.run(scenario())
    assert (first.release.version, first.hits[0].passage_id) == (0, "p1")
    assert (second.release.version, second.hits[0].passage_id) == (7, "p3")


def guarded(store, requests=3):
    from retort.releases.routing import Guard, Routing

    save_release(store, release())
    save_release(store, release(index="b", routing=Routing(guard=Guard(min_requests=requests, max_error_share=0.5))))

    def open_(release, version):
        return Served.of(release, version, make_searcher())

    return following(store, open_)


def test_the_guard_takes_a_bad_release_back_once(store):
    engine, follower = guarded(store)
    assert engine.info().version == 2 and not follower.guard()
    for _ in range(3):
        engine.served.watch.failed()
    assert follower.guard() and not follower.guard()
    assert follower.look() and (engine.info().version, engine.info().index) == (3, "a")
    assert metric(engine, "retort_release_changes_total", outcome="taken_back") == 1


def fails(engine, times=3):
    for _ in range(times):
        engine.served.watch.failed()


def test_what_was_gone_back_to_is_not_watched(store):
    from retort.releases.routing import Guard, Routing

    routing = Routing(guard=Guard(min_requests=3, max_error_share=0.5))
    save_release(store, release(routing=routing))
    save_release(store, release(index="b", routing=routing))
    engine, follower = following(store, lambda release, version: Served.of(release, version, make_searcher()))
    fails(engine)
    assert follower.guard() and follower.look() and engine.info().index == "a"
    fails(engine)
    assert not follower.guard(), "else two would take turns without end"


def test_a_replica_that_comes_later_does_not_judge_what_has_been_served_for_long(store):
    from retort.releases.routing import Guard, Routing

    ago = lambda seconds: (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()  # noqa: E731
    save_release(store, release())
    for index, moved, judges in (("b", ago(700), False), ("c", ago(300), True)):
        guard = Routing(guard=Guard(min_requests=3, watch_s=600))
        save_release(store, release(index=index, routing=guard, moved=moved))
        engine, follower = following(store, lambda release, version: Served.of(release, version, make_searcher()))
        fails(engine)
        assert follower.guard() == judges


@pytest.mark.parametrize("restarted", [False, True])
def test_what_was_refused_is_not_gone_back_to(store, restarted):
    from retort.releases.routing import Guard, Routing

    def open_(release, version):
        opened(release, version)
        return Served.of(release, version, make_searcher())

    save_release(store, release(index="a"))
    engine, follower = following(store, open_)
    save_release(store, release(index="bad"))
    assert not follower.look() and engine.info().refused.version == 2
    save_release(store, release(index="c", routing=Routing(guard=Guard(min_requests=3))))
    assert follower.look()
    if restarted:  # this one has not seen version 2, so it finds out by trying
        engine, follower = following(store, open_)
        fails(engine)
        assert follower.guard() and not follower.look() and engine.info().refused.version == 4
    fails(engine)
    assert follower.guard() and follower.look() and engine.info().index == "a" and engine.refused is None


def test_a_part_that_is_away_does_not_settle_a_version(store):
    save_release(store, release())
    away = [True, True]

    def open_(release, version):
        if version == 2 and away:
            away.pop()
            raise OverloadedError("part 1 is not there just now")
        return opened(release, version)

    engine, follower = following(store, open_)
    save_release(store, release(index="b"))
    assert [follower.look() for _ in range(3)] == [False, False, True] and engine.info().version == 2


def test_a_release_that_was_changed_meanwhile_is_not_taken_back(store):
    engine, follower = guarded(store)
    for _ in range(3):
        engine.served.watch.failed()
    save_release(store, release(index="c"))
    assert not follower.guard()
    assert follower.look() and engine.info().index == "c"


def test_what_a_replica_holds_is_announced_before_it_is_opened_and_withdrawn_at_the_end(store):
    save_release(store, release())
    held = []

    def open_(release, version):
        held.append(in_use(store))
        return Served.of(release, version, make_searcher())

    _, follower = following(store, open_)
    assert "a" * 8 in held[-1], "held before the first look of its thread, so that no deletion overlooks it"
    save_release(store, release(index="b"))
    follower.look()
    assert {"a" * 8, "b" * 8} <= held[-1]
    follower.stop()
    assert in_use(store) == set()


def test_a_replica_that_cannot_start_holds_nothing(store):
    save_release(store, release(index="bad"))
    with pytest.raises(CorruptError):
        following(store)
    assert in_use(store) == set()


@pytest.mark.parametrize("fault", [StorageError("the bucket is away"), OSError("no route to host")])
def test_a_store_that_stumbles_at_the_start_does_not_settle_the_newest_version(store, fault):
    save_release(store, release())
    save_release(store, release(index="b"))
    away = [True]

    def stumbling(release, version):
        if version == 2 and away[0]:
            raise fault
        return opened(release, version)

    engine, follower = following(store, stumbling)
    assert engine.info().version == 1 and engine.refused is None
    assert not follower.look() and engine.info().version == 1
    away[0] = False
    assert follower.look() and engine.info().version == 2


def test_a_mistake_of_ours_at_the_start_leads_to_the_older_version_too(store):
    save_release(store, release())
    save_release(store, release(index="b"))

    def broken(release, version):
        if version == 2:
            raise RuntimeError("FAISS says no")
        return opened(release, version)

    engine, follower = following(store, broken)
    assert engine.info().version == 1 and "FAISS says no" in engine.refused.reason
    assert not follower.look()


def test_a_follower_that_was_stopped_while_it_opened_holds_nothing(store):
    save_release(store, release())
    opening, go_on = threading.Event(), threading.Event()

    def slow(release, version):
        if version == 2:
            opening.set()
            assert go_on.wait(10)
        return opened(release, version)

    _, follower = following(store, slow, poll_s=0.01)
    follower.start()
    save_release(store, release(index="b"))
    assert opening.wait(10)
    follower.stop()
    go_on.set()
    follower._thread.join(10)
    assert not follower._thread.is_alive() and not in_use(store)
