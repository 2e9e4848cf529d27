"""BM25 beside the vectors, the teacher behind them, caches and deadlines."""

import asyncio
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retort.errors import ConfigError
from retort.metrics.fusion import reciprocal_rank_fusion
from retort.mining.bm25 import Bm25
from retort.serving.caching import AnswerCache, VectorCache
from retort.serving.engine import Asked, DeadlineError, EngineLimits, SearchEngine
from retort.serving.fakes import PASSAGES, WordCounter, make_searcher, make_served
from retort.serving.fusing import fuse
from retort.serving.models import SearchRequest
from retort.serving.searcher import SearchQuery
from retort.serving.served import Served

MANY = [
    {**PASSAGES[0], "passage_id": f"m{number:02}", "doc_id": f"d{number // 2}", "title": "", "lang": "de" if number % 3 else "en",
     "text": " ".join(["read"] * (number % 4 + 1) + [f"word{number}", "file" if number % 2 else "path"])}
    for number in range(40)
]  # fmt: skip


def words_of(passages):
    return Bm25.of([p["passage_id"] for p in passages], [f"{p['title']}\n{p['text']}" for p in passages])


def searcher(**options):
    return make_searcher(MANY, words=words_of(MANY), reranker=WordCounter(), **options)


def ids(result):
    return [hit.passage_id for hit in result.hits]


class TestHybrid:
    def test_it_is_the_fusion_of_both_rankings(self):
        made = searcher()
        dense = ids(made.search([SearchQuery("read word7 file", k=40)])[0])
        sparse = words_of(MANY).search(["read word7 file"], 40)[0][0]
        expected = reciprocal_rank_fusion([dense, sparse], limit=10)
        (found,) = made.search([SearchQuery("read word7 file", k=10, hybrid=True)])
        assert ids(found) == [passage_id for passage_id, _ in expected]
        assert [hit.score for hit in found.hits] == pytest.approx([score for _, score in expected])
        assert found.stages_ms["fuse"] > 0 and made.score_kind(SearchQuery("x", hybrid=True)) == "fused"

    def test_filters_hidden_passages_groups_and_pages_hold_for_it_too(self):
        shown = np.array([number != 7 for number in range(40)])
        made = searcher(shown=shown)
        (found,) = made.search([SearchQuery("word7 word9 read", k=30, hybrid=True, filters={"lang": "de"})])
        assert ids(found) and all(hit.lang == "de" for hit in found.hits)
        # The index of this world hides nothing itself: only that BM25 does not bring m07 in.
        only_words = words_of(MANY).rows("word7", 5, shown)
        assert 7 not in only_words
        (grouped,) = made.search([SearchQuery("read file", k=10, hybrid=True, group_by="doc_id")])
        assert len({hit.doc_id for hit in grouped.hits}) == 10
        (whole,) = made.search([SearchQuery("read file", k=8, hybrid=True)])
        (page,) = made.search([SearchQuery("read file", k=3, offset=5, hybrid=True)])
        assert ids(page) == ids(whole)[5:]

    def test_others_in_the_batch_are_not_touched(self):
        made = searcher()
        alone = made.search([SearchQuery("read file", k=5)])[0]
        together = made.search([SearchQuery("word3", k=5, hybrid=True), SearchQuery("read file", k=5)])[1]
        assert ids(alone) == ids(together) and [h.score for h in alone.hits] == [h.score for h in together.hits]

    @given(st.lists(st.integers(0, 30), unique=True), st.lists(st.integers(0, 30), unique=True))
    def test_rows_and_ids_fuse_alike(self, dense, sparse):
        names = lambda rows: [f"p{row:02}" for row in rows]  # noqa: E731
        rows, scores = fuse(np.array(dense, np.int64), np.array(sparse, np.int64), names)
        expected = reciprocal_rank_fusion([names(dense), names(sparse)])
        assert names(rows) == [passage_id for passage_id, _ in expected]
        assert scores.tolist() == pytest.approx([score for _, score in expected])


class TestRerank:
    def test_the_teacher_orders_the_first_hits_and_its_scores_are_shown(self):
        made = searcher()
        query = "read word8 path file"
        first = made.search([SearchQuery(query, k=20)])[0]
        (found,) = made.search([SearchQuery(query, k=5, rerank=20)])
        count = {hit.passage_id: len(set(query.split()) & set(hit.text.split())) for hit in first.hits}
        expected = sorted(count, key=lambda passage_id: (-count[passage_id], passage_id))[:5]
        assert ids(found) == expected and [hit.score for hit in found.hits] == [count[one] for one in expected]
        assert made.score_kind(SearchQuery("x", rerank=20)) == "reranked" and found.stages_ms["rerank"] > 0

    def test_pages_of_a_reranked_query_fit_together(self):
        made = searcher()
        whole = ids(made.search([SearchQuery("read file", k=20, rerank=20)])[0])
        parts = [ids(made.search([SearchQuery("read file", k=5, offset=o, rerank=20)])[0]) for o in (0, 5, 10, 15)]
        assert [passage_id for part in parts for passage_id in part] == whole

    def test_it_comes_after_fusion(self):
        made = searcher()
        fused = ids(made.search([SearchQuery("word5 read", k=10, hybrid=True)])[0])
        both = ids(made.search([SearchQuery("word5 read", k=10, hybrid=True, rerank=10)])[0])
        assert set(both) == set(fused)

    def test_fewer_hits_than_asked_for_are_no_error(self):
        (found,) = searcher().search([SearchQuery("read", k=5, rerank=20, filters={"passage_id": "m03"})])
        assert ids(found) == ["m03"]


def engine(limits=None, answers=0, made=None):
    served = make_served(made or searcher())
    return SearchEngine(Served(served.searcher, served.identity, answers=AnswerCache(answers)), limits=limits)


def ask(made, *bodies, asked=None):
    async def scenario():
        return [await made.search(SearchRequest(**body), asked) for body in bodies]

    return asyncio.run(scenario())


def test_answers_say_what_their_scores_are():
    plain, fused, teacher = ask(
        engine(), {"query": "read"}, {"query": "read", "hybrid": True}, {"query": "read", "rerank": 10}
    )
    assert [one.score_kind for one in (plain, fused, teacher)] == ["inner_product", "fused", "reranked"]


def test_a_request_may_have_only_so_many_hits_reranked():
    made = engine(EngineLimits(max_rerank=30))
    assert made.info().max_rerank == 30 and made.info().hybrid
    with pytest.raises(ConfigError, match="at most 30 hits a request"):
        ask(made, {"queries": ["a", "b"], "k": 5, "rerank": 20})
    with pytest.raises(ValueError, match="at least offset"):
        SearchRequest(query="x", k=10, rerank=5)


def test_plain_searches_do_not_wait_behind_the_teacher():
    class Slow(WordCounter):
        def score(self, pairs):
            time.sleep(0.5)
            return super().score(pairs)

    made = engine(made=make_searcher(MANY, words=words_of(MANY), reranker=Slow()))

    async def scenario():
        slow = asyncio.ensure_future(made.search(SearchRequest(query="read", rerank=10)))
        await asyncio.sleep(0.05)
        await made.search(SearchRequest(query="read"))
        assert not slow.done()
        return await slow

    assert asyncio.run(scenario()).score_kind == "reranked"


def test_the_same_request_is_answered_once_per_release():
    made = engine(answers=10)
    first, again, other, later = ask(
        made,
        {"query": "read"},
        {"query": "read", "deadline_ms": 5000},
        {"query": "read", "k": 3},
        {"query": "read", "k": 3},
    )
    assert [one.cached for one in (first, again, other, later)] == [False, True, False, True]
    assert again.hits == first.hits and again.timings_ms.encode == 0
    count = made.metrics.registry.get_sample_value
    assert count("retort_cache_total", {"outcome": "hit", "replica": ""}) == 2
    assert made.served.answers.get(("words", '{"query":"read"}')) is not None
    made.swap(Served(make_searcher(MANY[:20]), made.served.identity, answers=AnswerCache(10)))
    assert made.served.answers.get(("words", '{"query":"read"}')) is None


def test_answers_are_bounded_by_their_hits():
    cache = AnswerCache(10)
    cache.put("huge", 1, 1000)
    assert cache.get("huge") is None
    for number in range(40):
        cache.put(number, number, 16)
    kept = [number for number in range(40) if cache.get(number) is not None]
    assert kept == list(range(30, 40)) and AnswerCache(0).get(1) is None


def test_vectors_are_kept_by_encoder_and_text():
    calls = []

    def encode(texts):
        calls.append(list(texts))
        return np.array([[len(text)] for text in texts], dtype=np.float32)

    cache = VectorCache(3)
    assert cache.encode("a", ["x", "yy", "x"], encode).tolist() == [[1], [2], [1]]
    assert cache.encode("a", ["yy", "zzz"], encode).tolist() == [[2], [3]]
    assert cache.encode("b", ["x"], encode).tolist() == [[1]]
    assert calls == [["x", "yy"], ["zzz"], ["x"]]
    assert cache.encode("a", [f"{n:04}" for n in range(9)], encode).shape == (9, 1), "more than it keeps"


def test_a_request_may_set_its_own_deadline():
    made = make_searcher()
    real = made.encoder("words")[1].encode

    def slow(texts, side):
        time.sleep(0.3)
        return real(texts, side)

    made.encoder("words")[1].encode = slow
    for body, asked in (({"deadline_ms": 50}, None), ({}, Asked(deadline_ms=50))):
        began = time.perf_counter()
        with pytest.raises(DeadlineError, match=r"within 0\.05 s"):
            ask(SearchEngine(make_served(made)), {"query": "read", **body}, asked=asked)
        assert time.perf_counter() - began < 0.6  # the loop waits for the thread when it ends
    assert ask(
        SearchEngine(make_served(made), limits=EngineLimits(request_timeout_s=5)),
        {"query": "read", "deadline_ms": 3000},
    )
