"""The small world is what it says."""

from __future__ import annotations

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.store import Store
from retort.teaching.checks import check_candidates
from retort.teaching.fakes import publish_small_world


def test_the_small_world_is_sound_and_the_same_each_time(store: Store) -> None:
    world = publish_small_world(store, passages=20, queries=10, per_part=4, depth=5)
    queries, passages = QuerySet.open(world["queries"]), Passages.open(world["corpus"])
    check_candidates(world["candidates"], queries, passages)
    assert len(world["candidates"].parts()) == 3
    table = world["candidates"].table()
    pairs = set(zip(table["query_id"].to_pylist(), table["passage_id"].to_pylist(), strict=True))
    assert len(pairs) == table.num_rows == 50
    for query in queries.ids:
        (answer,) = queries.positives(query)
        assert (query, answer) in pairs
        text = queries.texts[queries.positions[query]]
        assert passages.texts([answer])[0].startswith(text)
