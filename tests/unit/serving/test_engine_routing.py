"""Routing, shadows and the guard, through the engine of the small world."""

import asyncio
import threading
import time

import pytest

from retort.errors import RetortError
from retort.releases.routing import Guard, Routing, Rule, Shadow
from retort.serving.engine import Asked, DeadlineError, EngineLimits, SearchEngine
from retort.serving.fakes import PASSAGES, make_searcher, make_served
from retort.serving.guarding import Watch
from retort.serving.models import SearchRequest
from retort.serving.served import Served


def engine(routing, names=("words", "other"), searcher=None, **fields):
    made = make_served(searcher or make_searcher(PASSAGES, names))
    return SearchEngine(Served(made.searcher, made.identity, routing=routing, **fields))


def answers(made, *requests):
    async def scenario():
        found = [
            await made.search(SearchRequest(**{"query": "read the file", **body}), asked) for body, asked in requests
        ]
        await asyncio.sleep(0.05)  # shadows
        return found

    return asyncio.run(scenario())


def metric(made, name, **labels):
    return made.metrics.registry.get_sample_value(name, {"replica": "", **labels})


def test_the_stamp_says_who_answered_and_why():
    made = engine(Routing(rules=[Rule(encoder="other", headers={"x-team": "b"})], weights={"words": 1}))
    by_rule, by_request, by_weight = answers(
        made,
        ({}, Asked(headers={"x-team": "b"})),
        ({"encoder": "other"}, None),
        ({}, None),
    )
    stamps = [(answer.release.encoder, answer.release.routed_by) for answer in (by_rule, by_request, by_weight)]
    assert stamps == [("other", "rule"), ("other", "request"), ("words", "weight")]
    assert metric(made, "retort_routed_total", encoder="other", by="rule") == 1


def test_one_key_gets_one_encoder():
    made = engine(Routing(weights={"words": 0.5, "other": 0.5}, sticky_header="X-User"))
    found = answers(made, *[({}, Asked(headers={"x-user": str(user)})) for user in [1, 2, 3, 4, 5, 6, 7, 8] * 2])
    names = [answer.release.encoder for answer in found]
    assert names[:8] == names[8:] and set(names) == {"words", "other"}


def test_a_shadow_is_compared_and_never_answers():
    made = engine(Routing(shadows=[Shadow(encoder="other", share=1.0)]))
    found = answers(made, ({"k": 3}, None), ({"k": 3, "encoder": "other"}, None))
    assert [answer.release.encoder for answer in found] == ["words", "other"]
    assert metric(made, "retort_shadow_total", encoder="other", outcome="answered") == 1
    assert metric(made, "retort_shadow_overlap_sum", encoder="other") == 1.0
    assert metric(made, "retort_shadow_seconds_count", encoder="other") == 1


def test_a_broken_shadow_harms_nobody():
    searcher = make_searcher(PASSAGES, ("words", "broken"))
    searcher.encoder("broken")[1].encode = lambda texts, side: 1 / 0
    made = engine(Routing(shadows=[Shadow(encoder="broken", share=1.0)]), searcher=searcher)
    assert answers(made, ({}, None))[0].hits[0].passage_id == "p1"
    assert metric(made, "retort_shadow_total", encoder="broken", outcome="failed") == 1


def test_the_guard_counts_our_faults_and_not_the_callers():
    searcher = make_searcher(PASSAGES, ("words", "broken"))
    searcher.encoder("broken")[1].encode = lambda texts, side: 1 / 0
    watch = Watch(Guard(min_requests=2, max_error_share=0.4), began_s=0)
    made = engine(None, searcher=searcher, watch=watch)

    async def ask(**body):
        try:
            await made.search(SearchRequest(query="x", **body))
        except (RetortError, ZeroDivisionError) as error:
            return type(error).__name__

    async def scenario():
        return [await ask(encoder="nobody"), await ask(), await ask(encoder="broken"), watch.verdict(1)]

    *kinds, verdict = asyncio.run(scenario())
    assert kinds == ["NotFoundError", None, "ZeroDivisionError"]
    assert verdict == "1 of 2 requests failed; its guard allows 40.0%"


def test_callers_cannot_make_the_guard_take_a_release_back():
    searcher = make_searcher(PASSAGES, ("words",))
    real = searcher.encoder("words")[1].encode

    def slow(texts, side):
        time.sleep(0.05)
        return real(texts, side)

    searcher.encoder("words")[1].encode = slow
    watch = Watch(Guard(min_requests=1, max_error_share=0.0), began_s=0)
    made = engine(None, searcher=searcher, watch=watch)

    async def scenario():
        for _ in range(3):
            with pytest.raises(DeadlineError):
                await made.search(SearchRequest(query="x", deadline_ms=1))

    asyncio.run(scenario())
    assert watch.verdict(1) is None

    async def late():
        with pytest.raises(DeadlineError):
            await made.search(SearchRequest(query="x"))

    made = SearchEngine(made.served, limits=EngineLimits(request_timeout_s=0.02))
    asyncio.run(late())
    assert "1 of 1 requests failed" in watch.verdict(1)


def test_only_plain_searches_tell_the_guard_how_slow_a_release_is():
    watch = Watch(Guard(min_requests=1, max_p95_ms=1e-6), began_s=0)
    made = engine(None, watch=watch)

    async def scenario():
        for body in ({"queries": ["x", "y"]}, {"query": "x", "k": 500}, {"query": "x", "filters": {"lang": "en"}}):
            await made.search(SearchRequest(**body))
        await asyncio.sleep(0.01)
        before = watch.verdict(1)
        await made.search(SearchRequest(query="x"))
        await asyncio.sleep(0.01)
        return before, watch.verdict(1)

    before, after = asyncio.run(scenario())
    assert before is None and "over 1 requests" in after


def test_the_time_in_the_queue_is_not_the_releases():
    searcher = make_searcher(PASSAGES, ("words",))
    real = searcher.encoder("words")[1].encode
    searcher.encoder("words")[1].encode = lambda texts, side: (time.sleep(0.05), real(texts, side))[1]
    watch = Watch(Guard(min_requests=1, max_p95_ms=150), began_s=0)
    made = engine(None, searcher=searcher, watch=watch)
    made.limit(EngineLimits(max_batch_queries=1))

    async def scenario():
        answers = await asyncio.gather(*(made.search(SearchRequest(query=f"x{n}")) for n in range(8)))
        await asyncio.sleep(0.01)
        return max(answer.timings_ms.queue for answer in answers)

    assert asyncio.run(scenario()) > 200 and watch.verdict(1) is None


def test_a_release_may_only_route_to_encoders_it_has():
    from retort.releases.release import ArtefactRef, Release

    ref = ArtefactRef(kind="encoder", name="e", key="k", digest="d")
    fields = {
        "name": "live",
        "index": ref,
        "corpus": ref,
        "encoders": {"base": ref},
        "default_encoder": "base",
        "created": "x",
    }
    with pytest.raises(ValueError, match="routing names tuned; the encoders are base"):
        Release(**fields, routing=Routing(weights={"tuned": 1.0}))


def test_only_plain_short_requests_with_time_enough_are_answered_on_the_event_loop(monkeypatch):
    monkeypatch.setattr("retort.serving.batcher._QUICK_S", 10.0)  # the machine may be busy
    made = engine(Routing(weights={"words": 1}))
    threads = []
    run = made._batcher._run

    def noting(works):
        threads.append(threading.current_thread() is threading.main_thread())
        return run(works)

    made._batcher._run = noting
    plain = ({}, None)
    others = [
        {"k": 60}, {"offset": 45}, {"group_by": "doc_id"}, {"filters": {"lang": "en"}}, {"query": "x" * 300}, {"deadline_ms": 20},
    ]  # fmt: skip
    answers(
        made,
        plain,
        plain,
        plain,
        *[({"query": "read", **body}, None) for body in others],
        (({}), Asked(deadline_ms=20)),
        plain,
    )
    assert threads == [False, True, True, *[False] * (len(others) + 1), True]
