import numpy as np
import pytest

from retort.errors import InputError
from retort.indexing.exact import ExactIndex
from retort.indexing.merge import Hits
from retort.indexing.refine import Refiner
from retort.indexing.search import ShardedIndex
from retort.indexing.vectors import VectorStore

from .conftest import unit_vectors

CODES = ["ivf-rabitq", "ivf-pq", "HNSW16,SQ4", "PCA16,SQ4", "hnsw-sq8"]


def recall(found, truth):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.rows.tolist(), truth.rows.tolist())])


@pytest.mark.parametrize("kind", CODES)
def test_refined_scores_are_those_of_exact_search_in_batches_and_alone(publish_embeddings, make_index, kind):
    embeddings = publish_embeddings(unit_vectors(900, 32), rows=200)
    index = ShardedIndex.open(make_index(embeddings, kind=kind, refine=8))
    exact = ExactIndex.open(embeddings)
    queries = unit_vectors(30, 32, seed=5).astype(np.float32)
    hits, truth, every = index.search(queries, 10), exact.search(queries, 10), exact.search(queries, 900)
    of_row = [dict(zip(rows, scores)) for rows, scores in zip(every.rows.tolist(), every.scores.tolist())]
    for query, (rows, scores) in enumerate(zip(hits.rows.tolist(), hits.scores.tolist())):
        assert all(of_row[query][row] == score for row, score in zip(rows, scores))
        alone = index.search(queries[query : query + 1], 10)
        assert (alone.rows[0].tolist(), alone.scores[0].tolist()) == (rows, scores)
    assert recall(hits, truth) > 0.6


@pytest.mark.parametrize("kind", ["ivf-rabitq", "PQ8x4fs"])
def test_refining_raises_the_recall_of_coarse_codes(publish_embeddings, make_index, kind):
    embeddings = publish_embeddings(unit_vectors(900, 32), rows=200)
    queries = unit_vectors(40, 32, seed=5).astype(np.float32)
    truth = ExactIndex.open(embeddings).search(queries, 10)
    found = [
        recall(ShardedIndex.open(make_index(embeddings, kind=kind, refine=refine)).search(queries, 10), truth)
        for refine in ("off", 2, 8, 32)
    ]
    assert found == sorted(found) and found[-1] > found[0] + 0.2


def test_the_factor_is_in_the_description_and_candidates_of_all_shards_compete(publish_embeddings, make_index):
    index = make_index(publish_embeddings(unit_vectors(400, 16)), kind="ivf-rabitq", shards=3, refine=5)
    assert index.json("index.json")["search"]["refine"] == 5 and index.metrics["search"]["refine"] == 5
    assert len(set(ShardedIndex.open(index).search(np.ones((1, 16), dtype=np.float32), 20).rows[0].tolist())) == 20


def test_missing_candidates_stay_missing(publish_embeddings):
    refiner = Refiner(VectorStore.open(publish_embeddings(unit_vectors(5, 8))), 2)
    few = Hits(np.array([[0.5, -np.inf]], dtype=np.float32), np.array([[3, -1]]))
    hits = refiner.rescored(np.ones((1, 8), dtype=np.float32), [few, few], refiner.depth(4))
    assert sorted(hits.rows[0].tolist()) == [-1, -1, 3, 3] and np.isinf(hits.scores[0]).sum() == 2


def test_where_few_may_be_found_they_are_read_and_none_is_missed(publish_embeddings, make_index):
    embeddings = publish_embeddings(unit_vectors(3000, 16), rows=1000)
    index = ShardedIndex.open(make_index(embeddings, kind="ivf-rabitq", refine=2))
    queries = unit_vectors(10, 16, seed=5).astype(np.float32)
    allowed = np.zeros(3000, dtype=bool)
    allowed[7::150] = True
    found = index.search(queries, 10, allowed)
    every = ExactIndex.open(embeddings).search(queries, 3000)
    for query in range(10):
        expected = [row for row in every.rows[query].tolist() if allowed[row]][:10]
        assert found.rows[query].tolist() == expected


def test_refine_for_a_kind_that_keeps_vectors_is_refused(publish_embeddings, make_index):
    with pytest.raises(InputError, match="refine is 4, and index kind 'hnsw' keeps the vectors"):
        make_index(publish_embeddings(unit_vectors(50, 8)), kind="hnsw", refine=4)
