import numpy as np
import pytest

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.mining.bm25 import Bm25
from retort.mining.candidates import PartMiner, distinct_pairs, query_parts, query_sample, random_rows
from retort.store.schemas import CANDIDATE, PART_QUERIES


class Fixed:
    """The same list for every query."""

    def __init__(self, *ids):
        self.ids = list(ids)

    def search(self, texts, k):
        own = self.ids[:k]
        return [own for _ in texts], [np.linspace(1, 0.5, len(own), dtype=np.float32) for _ in texts]


@pytest.fixture
def mined(store, publish_corpus, publish_queries):
    corpus = publish_corpus()
    queries = QuerySet.open(publish_queries(corpus))

    def make(part="part-00000.parquet", queries=queries, searches=None, random_k=0, include_labelled=True, seed=1):
        draft = store.draft("candidates", "c", step="test")
        miner = PartMiner(
            draft=draft, queries=queries, passages=Passages.open(corpus), searches=searches or {},
            random_k=random_k, include_labelled=include_labelled, seed=seed,
        )  # fmt: skip
        stats = miner(part)
        return draft.read_table(part), stats

    return make


def of_query(table, query):
    return [(row["passage_id"], row["source"], row["rank"]) for row in table.to_pylist() if row["query_id"] == query]


def test_labelled_first_then_sources_in_turn_then_random(mined):
    table, stats = mined(searches={"bm25": (Fixed("p1", "p4"), 2), "dense": (Fixed("p5", "p1", "p6"), 2)}, random_k=2)
    assert table.schema.equals(CANDIDATE)
    rows = of_query(table, "q1")
    assert rows[:6] == [
        ("p2", "labelled", 1), ("p1", "labelled", 2),
        ("p1", "bm25", 1), ("p5", "dense", 1), ("p4", "bm25", 2), ("p1", "dense", 2),
    ]  # fmt: skip
    assert rows[6:] == [("p3", "random", 1), ("p6", "random", 2)] or rows[6:] == [
        ("p6", "random", 1),
        ("p3", "random", 2),
    ]
    assert stats["queries"] == 4 and stats["rows"] == table.num_rows
    assert stats["pairs"] == len(set(zip(table["query_id"].to_pylist(), table["passage_id"].to_pylist(), strict=True)))


def test_scores_and_grades_are_kept(mined):
    table, _ = mined(searches={"bm25": (Fixed("p1", "p4"), 2)})
    scores = {(row["query_id"], row["passage_id"], row["source"]): row["score"] for row in table.to_pylist()}
    assert scores["q1", "p2", "labelled"] == 2.0
    assert scores["q1", "p4", "bm25"] == 0.5


def test_a_grade_of_zero_is_no_label(mined):
    table, _ = mined()
    assert of_query(table, "q2") == [("p3", "labelled", 1)]
    assert of_query(table, "q3") == []


def test_distinct_pairs_keep_the_best_source_in_order(mined):
    table, stats = mined(searches={"bm25": (Fixed("p1", "p4"), 2), "dense": (Fixed("p4", "p1"), 2)})
    distinct = distinct_pairs(table)
    assert of_query(distinct, "q1") == [("p2", "labelled", 1), ("p1", "labelled", 2), ("p4", "dense", 1)]
    assert distinct.num_rows == stats["pairs"]


def test_random_passages_are_never_found_or_labelled_ones(mined):
    for seed in range(20):
        table, _ = mined(searches={"dense": (Fixed("p4"), 1)}, random_k=3, include_labelled=False, seed=seed)
        drawn = [passage for passage, source, _ in of_query(table, "q1") if source == "random"]
        assert len(set(drawn)) == 3 and not {"p4", "p1", "p2"} & set(drawn)


def test_random_passages_depend_on_seed_and_query_alone():
    assert (random_rows("q1", 1, 5, 1000) == random_rows("q1", 1, 5, 1000)).all()
    assert (random_rows("q1", 1, 5, 1000) != random_rows("q2", 1, 5, 1000)).any()
    assert (random_rows("q1", 1, 5, 1000) != random_rows("q1", 2, 5, 1000)).any()
    assert sorted(random_rows("q1", 1, 50, 7).tolist()) == list(range(7))
    counts = np.bincount(np.concatenate([random_rows(f"q{n}", 0, 3, 10) for n in range(1000)]), minlength=10)
    assert counts.sum() == 3000 and counts.min() > 220 and counts.max() < 380  # 300 each, 5 standard deviations


def test_parts_hold_the_queries_in_order(mined, publish_corpus, publish_queries):
    many = [(f"q{n:03d}", "list") for n in range(PART_QUERIES + 3)]
    queries = QuerySet.open(publish_queries(publish_corpus(), queries=many, qrels=[], name="many"))
    assert query_parts(len(many)) == ["part-00000.parquet", "part-00001.parquet"]
    table, stats = mined(part="part-00001.parquet", queries=queries, searches={"bm25": (Fixed("p1"), 1)})
    assert table["query_id"].to_pylist() == ["q256", "q257", "q258"] and stats["queries"] == 3


def test_a_part_without_any_candidate_is_an_empty_table(mined, publish_corpus, publish_queries):
    queries = QuerySet.open(publish_queries(publish_corpus(), queries=[("q", "zebra")], qrels=[], name="odd"))
    table, stats = mined(queries=queries, searches={"bm25": (Bm25.of(["p1"], ["list"]), 3)})
    assert table.num_rows == 0 and table.schema.equals(CANDIDATE) and stats["pairs"] == 0


def test_a_sample_of_the_queries_is_in_their_order_and_mostly_kept_when_more_come(publish_corpus, publish_queries):
    corpus = publish_corpus()
    many = [(f"q{n:03d}", f"list {n}") for n in range(200)]
    some = QuerySet.open(publish_queries(corpus, queries=many[:150], qrels=[("q001", "p1", 1)], name="some"))
    sample = query_sample(some, 40, seed=1)
    assert len(sample) == 40 and sample.ids == sorted(sample.ids)
    assert sample.texts == [f"list {int(query_id[1:])}" for query_id in sample.ids]
    assert sample.ids == query_sample(some, 40, seed=1).ids != query_sample(some, 40, seed=2).ids
    grown = query_sample(QuerySet.open(publish_queries(corpus, queries=many, qrels=[], name="grown")), 40, seed=1)
    assert len(set(grown.ids) & set(sample.ids)) >= 20
    assert query_sample(some, None, seed=1) is some and query_sample(some, 150, seed=1) is some
