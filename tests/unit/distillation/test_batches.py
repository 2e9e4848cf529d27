"""Batches are pure functions of seed, step, rank and world size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retort.distillation.batches import BatchSampler, neighbourhood_order
from retort.distillation.training_set import Texts, TrainingSet, lists_of


def made_up(queries: int = 20, unlabelled: int = 5, vectors: bool = False) -> TrainingSet:
    """Query i has the positive i, a pool of ten passages, judgements of all; the last `unlabelled` have no positive."""
    generator = np.random.default_rng(1)
    pools = [[50 + (i * 7 + j) % 40 for j in range(10 if i else 2)] for i in range(queries)]
    positives = [[i] if i < queries - unlabelled else [] for i in range(queries)]
    judged = [sorted(p + pool) for p, pool in zip(positives, pools, strict=True)]
    total = sum(map(len, judged))
    tokens = lists_of([[101, *range(5 + i % 4), 102] for i in range(100)])
    words = lists_of([[0, 0, *(n for w in range(5 + i % 4) for n in (w, w + 1)), 0, 0] for i in range(100)])
    points = generator.normal(size=(queries, 4)).astype(np.float32)
    return TrainingSet(
        query_ids=[f"q{i}" for i in range(queries)],
        passage_ids=[f"p{i}" for i in range(100)],
        queries=Texts(lists_of([[101, i, 102] for i in range(queries)]), lists_of([[0, 0, 0, 1, 0, 0]] * queries)),
        passages=Texts(tokens, words),
        positives=lists_of(positives),
        pool=lists_of(pools),
        known=lists_of(positives),
        judged=lists_of(judged),
        scores=generator.normal(size=total).astype(np.float32),
        trust=np.ones(total, dtype=np.float32),
        places=np.arange(total, dtype=np.int32),
        groups=np.arange(queries),
        vectors=points if vectors else None,
    )


def sampler(data: TrainingSet, **changes: int) -> BatchSampler:
    return BatchSampler(data, **{"batch_queries": 8, "negatives": 3, "similar": 1, "seed": 13, **changes})


def test_the_same_step_gives_the_same_batch_in_a_new_process() -> None:
    data = made_up()
    ahead = sampler(data)
    for step in range(9):
        ahead.batch(step)
    again, direct = ahead.batch(9, 1, 2), sampler(data).batch(9, 1, 2)
    assert again.queries.tolist() == direct.queries.tolist()
    assert again.candidates.tolist() == direct.candidates.tolist()


@pytest.mark.parametrize("world", [2, 3, 8])
def test_ranks_share_the_batch_of_one_process(world: int) -> None:
    whole = sampler(made_up()).batch(5)
    shares = [sampler(made_up()).batch(5, rank, world) for rank in range(world)]
    lists = {
        (int(q), tuple(c)) for share in shares for q, c in zip(share.queries, share.candidates.tolist(), strict=True)
    }
    assert lists == {(int(q), tuple(c)) for q, c in zip(whole.queries, whole.candidates.tolist(), strict=True)}
    assert sum(len(share.queries) for share in shares) == 8


def test_an_epoch_meets_every_query_once() -> None:
    draws = sampler(made_up(), batch_queries=5)
    queries = np.concatenate([draws.batch(step).queries for step in range(4)])
    assert sorted(queries.tolist()) == list(range(20))
    assert draws.steps_per_epoch() == 4


def test_column_0_is_the_positive_or_the_teachers_best() -> None:
    data = made_up()
    batch = sampler(data, batch_queries=20).batch(0)
    for query, row, labelled in zip(
        batch.queries.tolist(), batch.candidates.tolist(), batch.labelled.tolist(), strict=True
    ):
        if labelled:
            assert row[0] == query
        else:
            judged = slice(data.judged.offsets[query], data.judged.offsets[query + 1])
            assert row[0] == data.judged[query][data.scores[judged].argmax()]
        behind = [passage for passage in row[1:] if passage >= 0]
        assert row[0] not in behind and len(set(behind)) == len(behind)
        assert set(behind) <= set(data.pool[query].tolist())


def test_short_pools_leave_columns_empty() -> None:
    batch = sampler(made_up(), batch_queries=20).batch(0)
    row = batch.candidates[batch.queries.tolist().index(0)].tolist()
    assert row.count(-1) == 1 and row[-1] == -1


def test_negatives_change_from_epoch_to_epoch() -> None:
    draws = sampler(made_up(), batch_queries=20)
    first, second = draws.batch(0), draws.batch(1)
    lists = [dict(zip(b.queries.tolist(), b.candidates.tolist(), strict=True)) for b in (first, second)]
    assert sum(lists[0][q] != lists[1][q] for q in range(20)) > 10


def test_neighbours_come_together() -> None:
    angles = np.repeat([0.0, 2.0, 4.0], 4) + np.tile([0.0, 0.01, 0.02, 0.03], 3)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    generator = np.random.default_rng(0)
    order = neighbourhood_order(generator.permutation(12), vectors, 4, generator)
    assert sorted(order.tolist()) == list(range(12))
    assert all(len({int(q) // 4 for q in order[i : i + 4]}) == 1 for i in range(0, 12, 4))


def test_neighbourhoods_keep_every_query_once_per_epoch_with_leftovers() -> None:
    draws = sampler(made_up(vectors=True), batch_queries=20, similar=3)
    assert sorted(draws.batch(0).queries.tolist()) == list(range(20))
    assert draws.batch(0).queries.tolist() != draws.batch(1).queries.tolist()


def test_a_training_set_survives_the_disk(tmp_path: Path) -> None:
    data = made_up(vectors=True)
    data.save(tmp_path)
    back = TrainingSet.open(tmp_path)
    assert back.query_ids == data.query_ids and back.passage_ids == data.passage_ids
    assert [back.judged[i].tolist() for i in range(20)] == [data.judged[i].tolist() for i in range(20)]
    assert back.vectors is not None and np.array_equal(back.vectors, data.vectors)
    assert np.array_equal(back.scores, data.scores)
    assert (
        sampler(back, similar=2).batch(3).candidates.tolist() == sampler(data, similar=2).batch(3).candidates.tolist()
    )


def test_labelled_queries_without_candidates_are_read_from_a_map(tmp_path: Path) -> None:
    """NumPy shuffles an empty array in place, which a read-only map refuses."""
    data = made_up(unlabelled=0)
    replace(data, pool=lists_of([[] for _ in range(20)])).save(tmp_path)
    batch = sampler(TrainingSet.open(tmp_path)).batch(0)
    assert (batch.candidates[:, 0] >= 0).all() and (batch.candidates[:, 1:] == -1).all()
