"""Lists drawn for training: deterministic, the same for every world size, never a positive among the negatives."""

from __future__ import annotations

import numpy as np
import pytest

from retort.teaching.groups import GroupSampler, ragged

POSITIVES = ragged([[0], [1, 2], [3], [4], [5]])
POOL = ragged([[10, 11, 12, 13, 14], [10, 15, 16, 17], [18, 19, 20, 21], [11], []])


def sampler(seed: int = 7, batch_queries: int = 4, negatives: int = 3) -> GroupSampler:
    return GroupSampler(POSITIVES, POOL, passage_rows=30, batch_queries=batch_queries, negatives=negatives, seed=seed)


def test_a_batch_is_a_pure_function_of_seed_and_step() -> None:
    first, again, later = sampler().batch(3), sampler().batch(3), sampler().batch(4)
    assert np.array_equal(first.queries, again.queries)
    assert np.array_equal(first.passages, again.passages)
    assert not np.array_equal(first.passages, later.passages)
    assert not np.array_equal(first.passages, sampler(seed=8).batch(3).passages)


def test_asking_out_of_order_gives_the_same_batch() -> None:
    warm = sampler()
    for step in (9, 0, 2):
        warm.batch(step)
    assert np.array_equal(warm.batch(3).passages, sampler().batch(3).passages)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_the_ranks_share_out_the_same_global_batch(world: int) -> None:
    whole = sampler().batch(5)
    shares = [sampler().batch(5, rank, world) for rank in range(world)]
    lists = {
        (int(q), tuple(p)) for share in shares for q, p in zip(share.queries, share.passages.tolist(), strict=True)
    }
    assert lists == {(int(q), tuple(p)) for q, p in zip(whole.queries, whole.passages.tolist(), strict=True)}
    assert sum(len(share.queries) for share in shares) == whole.global_lists == 4


def test_an_epoch_visits_each_query_once() -> None:
    one = sampler(batch_queries=1)
    assert sorted(int(one.batch(step).queries[0]) for step in range(5)) == [0, 1, 2, 3, 4]
    assert sorted(int(one.batch(step).queries[0]) for step in range(5, 10)) == [0, 1, 2, 3, 4]


def test_lists_start_with_a_positive_and_hold_only_candidates_behind_it() -> None:
    for step in range(10):
        batch = sampler().batch(step)
        for query, row in zip(batch.queries, batch.passages, strict=True):
            positives, pool = set(POSITIVES[query].tolist()), set(POOL[query].tolist())
            assert int(row[0]) in positives
            assert not positives & set(row[1:].tolist())
            if len(pool) >= 3:
                assert set(row[1:].tolist()) <= pool
            assert len(set(row[1:].tolist())) == 3


def test_negatives_differ_between_epochs() -> None:
    wide = GroupSampler(
        ragged([[0]]), ragged([list(range(1, 50))]), passage_rows=50, batch_queries=1, negatives=3, seed=1
    )
    assert len({tuple(wide.batch(epoch).passages[0].tolist()) for epoch in range(5)}) == 5


def test_a_query_without_candidates_is_filled_up_with_random_passages() -> None:
    alone = GroupSampler(ragged([[4]]), ragged([[]]), passage_rows=30, batch_queries=1, negatives=3, seed=1)
    row = alone.batch(0).passages[0].tolist()
    assert row[0] == 4 and 4 not in row[1:] and all(0 <= passage < 30 for passage in row[1:])


def test_random_negatives_come_from_outside_the_candidates() -> None:
    mixed = GroupSampler(POSITIVES, POOL, passage_rows=30, batch_queries=1, negatives=2, random_negatives=2, seed=1)
    for step in range(10):
        batch = mixed.batch(step)
        query, row = int(batch.queries[0]), batch.passages[0].tolist()
        known = {*POSITIVES[query].tolist(), *POOL[query].tolist()}
        hard = min(2, len(POOL[query]))
        assert set(row[1 : 1 + hard]) <= known and not set(row[1 + hard :]) & known and len(row) == 5


def test_a_tiny_corpus_leaves_masked_columns() -> None:
    tiny = GroupSampler(ragged([[0]]), ragged([[1]]), passage_rows=2, batch_queries=1, negatives=3, seed=1)
    batch = tiny.batch(0)
    assert batch.passages.tolist() == [[0, 1, -1, -1]]
    assert batch.mask.tolist() == [[True, True, False, False]]
