import numpy as np
import pytest

from retort.errors import ConfigError, InputError
from retort.indexing.build import IndexConfig
from retort.indexing.exact import ExactIndex
from retort.indexing.search import ShardedIndex
from retort.indexing.tune import TuneGoal, made_queries, recall_of
from retort.indexing.vectors import VectorStore

from .conftest import unit_vectors


def clustered(rows, dimension, seed=0):
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((40, dimension))
    vectors = centres[generator.integers(0, 40, rows)] + 0.7 * generator.standard_normal((rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def test_a_goal_is_read_and_anything_else_is_told():
    assert TuneGoal.parse("recall@10=0.95") == TuneGoal(10, 0.95) and str(TuneGoal(10, 0.95)) == "recall@10=0.95"
    for text in ("0.95", "recall@0=0.9", "recall@10=1.5", "recall@10=..", "ndcg@10=0.9"):
        with pytest.raises(ConfigError, match="expected recall@K=R"):
            TuneGoal.parse(text)


@pytest.mark.parametrize(
    ("kind", "name"), [("hnsw-sq8", "efSearch"), ("IVF32,SQ8", "nprobe"), ("IVF32,RaBitQ", "nprobe")]
)
def test_what_is_chosen_reaches_the_recall_and_is_used(publish_embeddings, make_index, kind, name):
    embeddings = publish_embeddings(clustered(3000, 24), rows=1000)
    made = make_index(embeddings, kind=kind, tune="recall@10=0.9", tune_count=200)
    tuned, search = made.metrics["tuned"], made.json("index.json")["search"]
    assert made.metrics["search"] == search and name in search
    assert tuned["low"] <= tuned["recall"] <= tuned["high"] and tuned["judged_on"] == 100
    assert "passages moved" in tuned["queries_are"]
    assert all(point["queries_per_s"] > 0 for point in tuned["curve"]) and len(tuned["curve"]) > 2
    queries = made_queries(VectorStore.open(embeddings), 150, seed=99)  # others than it was tuned on
    found, truth = ShardedIndex.open(made).search(queries, 10), ExactIndex.open(embeddings).search(queries, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.rows.tolist(), truth.rows.tolist())])
    assert recall > 0.86
    below = [
        point for point in tuned["curve"] if point.get("refine") == search.get("refine") and point[name] < search[name]
    ]
    assert all(point["recall"] < 0.9 for point in below)


def test_tuning_gives_the_same_index_twice_whatever_the_clock_says(publish_embeddings, make_index):
    embeddings = publish_embeddings(clustered(2000, 16), rows=1000)
    first, second = (
        make_index(embeddings, kind="IVF32,SQ8", tune="recall@10=0.9", tune_count=100, shards=2, name=name)
        for name in ("first", "second")
    )
    assert first.digest == second.digest


def test_a_recall_that_cannot_be_reached_is_told_with_the_best_there_is(publish_embeddings, make_index):
    with pytest.raises(
        InputError, match=r"recall@10=0.999 cannot be reached by index kind 'PQ4x4': its widest search finds 0\.\d+ "
    ):
        make_index(
            publish_embeddings(unit_vectors(2000, 16)),
            kind="PQ4x4",
            refine="off",
            tune="recall@10=0.999",
            tune_count=60,
        )


def test_an_exact_kind_needs_no_setting(publish_embeddings, make_index):
    made = make_index(publish_embeddings(unit_vectors(200, 8)), kind="flat", tune="recall@10=1", tune_count=40)
    assert made.json("index.json")["search"] == {} and made.metrics["tuned"]["recall"] == 1.0


def test_queries_to_tune_on_without_a_goal_are_refused(publish_embeddings, make_index):
    with pytest.raises(ConfigError, match="tune_queries is given, and tune is not"):
        make_index(publish_embeddings(unit_vectors(50, 8)), tune_queries="docs.dev")


def test_fields_are_checked():
    with pytest.raises(ConfigError, match="refine"):
        IndexConfig.validated({"embeddings": "e", "refine": "some"})
    assert IndexConfig.validated({"embeddings": "e", "refine": "4"}).refine == 4


def test_ties_with_the_last_hit_count_as_found():
    truth = np.array([[0.9, 0.8]], dtype=np.float32)
    assert recall_of(np.array([[1, 7]]), np.array([[0.9, 0.8]], dtype=np.float32), truth).tolist() == [1.0]
    assert recall_of(np.array([[1, -1]]), np.array([[0.9, -np.inf]], dtype=np.float32), truth).tolist() == [0.5]


def test_made_queries_lie_at_the_cosine_said_and_are_the_same_each_time(publish_embeddings):
    store = VectorStore.open(publish_embeddings(clustered(500, 24)))
    made = made_queries(store, 50, 3)
    assert (made == made_queries(store, 50, 3)).all() and (made != made_queries(store, 50, 4)).any()
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    assert (made @ store.rows(slice(0, 500)).T).max() < 0.99
