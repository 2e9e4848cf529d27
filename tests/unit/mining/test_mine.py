"""The step's checks and its outcome; Ray's part in it is tested in tests/ray/test_mine.py."""

import pytest

from retort.errors import ConfigError, IncompatibleError, InputError, NotFoundError
from retort.mining.mine import MineConfig, mine


@pytest.fixture
def without_ray(monkeypatch):
    asked = []

    def in_turn(worker, settings, parts, resources, *, describe, progress=None, weights=None):
        asked.append((list(parts), weights))
        made = worker(**settings)
        return [dict(made(part)) for part in parts]

    monkeypatch.setattr("retort.mining.stages.map_parts", in_turn)
    return asked


def config(corpus, queries, **fields):
    return MineConfig(corpus=corpus.uri, queries=queries.uri, **{"dense_k": 0, **fields})


def test_without_an_encoder_bm25_and_chance_are_mined(publish_corpus, publish_queries, without_ray):
    corpus = publish_corpus()
    made = mine(config(corpus, publish_queries(corpus), bm25_k=2, random_k=1))
    table = made.table()
    sources = table["source"].value_counts().to_pylist()
    assert made.metrics["sources"] == {entry["values"]: entry["counts"] for entry in sources}
    assert set(made.metrics["sources"]) == {"labelled", "bm25", "random"}
    assert made.manifest.rows == table.num_rows and made.metrics["queries"] == 4
    assert made.manifest.licences == ["MIT"]
    assert without_ray == [(["part-00000.parquet"], {"part-00000.parquet": 4.0})]


def test_a_second_run_mines_nothing_anew(publish_corpus, publish_queries, without_ray):
    corpus = publish_corpus()
    queries = publish_queries(corpus)
    first = mine(config(corpus, queries))
    assert mine(config(corpus, queries)).uri == first.uri and len(without_ray) == 1
    assert mine(config(corpus, queries, seed=5)).uri != first.uri


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"dense_k": 3}, "embeddings or an index are needed"),
        ({"dense_k": 3, "embeddings": "a", "index": "b"}, "are both given"),
        ({"bm25_k": 0, "random_k": 0}, "nothing to find"),
        ({"bm25_method": "bm25+"}, "bm25_method"),
    ],
)
def test_contradictory_configs_are_refused(fields, what):
    with pytest.raises(ConfigError, match=what):
        MineConfig.validated({"corpus": "c", "queries": "q", "dense_k": 0, **fields})


def test_queries_of_another_corpus_are_refused(publish_corpus, publish_queries):
    queries = publish_queries(publish_corpus())
    with pytest.raises(IncompatibleError, match="belongs to corpus"):
        mine(config(publish_corpus([("x", "", "other")], name="other"), queries))


def test_qrels_of_unknown_passages_are_refused_before_any_work(publish_corpus, publish_queries):
    corpus = publish_corpus()
    with pytest.raises(NotFoundError, match="'p99'"):
        mine(config(corpus, publish_queries(corpus, qrels=[("q1", "p99", 1)])))


def test_queries_without_any_candidate_are_told(publish_corpus, publish_queries, without_ray):
    corpus = publish_corpus()
    with pytest.raises(InputError, match="Not one of 1 queries has a candidate"):
        mine(config(corpus, publish_queries(corpus, queries=[("q", "zebra")], qrels=[]), random_k=0))
    with pytest.raises(InputError, match="has no queries"):
        mine(config(corpus, publish_queries(corpus, queries=[], qrels=[])))
