"""What is mined, and what a step reads: own language, no known positive, the same union for any number of workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.errors import CorruptError, InputError
from retort.indexing.vectors import VectorStore
from retort.models.dual_encoder import DualEncoder
from retort.store import Artefact
from retort.tuning.batches import Batch, BatchMaker
from retort.tuning.fakes import small_training_set
from retort.tuning.training_set import TrainingSet

World = dict[str, Artefact]


def maker(world: World, data: TrainingSet, loss: str = "triplet", negatives: int = 4, share: float = 0.5) -> BatchMaker:
    return BatchMaker(
        data,
        VectorStore.open(world["embeddings"]),
        batch_queries=7,
        negatives=negatives,
        random_share=share,
        loss=loss,
        padding=0,
        seed=3,
        forward_tokens=20,
    )


def rows_of(batch: Batch, world: World) -> np.ndarray:
    """The corpus row of each of the batch's passages, found by its vector."""
    everything = VectorStore.open(world["embeddings"]).rows(slice(None))
    return (batch.passages.numpy() @ everything.T).argmax(axis=1)


def test_mined_negatives_are_the_best_passages_of_the_positives_language(world: World) -> None:
    data, coverage = small_training_set(world, hard_depth=5)
    passages, vectors = Passages.open(world["corpus"]), VectorStore.open(world["embeddings"])
    langs = np.array(passages.column("lang").to_pylist())
    queries = QuerySet.open(world["queries"])
    encoder = DualEncoder.load(world["encoder"].local(), device="cpu", precision="fp32")
    scores = encoder.encode(queries.texts, "query") @ vectors.rows(slice(None)).T
    for i, query in enumerate(queries.ids):
        own = int(passages.rows([query])[0])
        able = np.flatnonzero((langs == "en-us") & (np.arange(len(langs)) != own))
        best = able[np.argsort(-scores[i, able], kind="stable")[:5]]
        assert set(data.negatives[i].tolist()) == set(best.tolist())
        assert data.positives[i].tolist() == [own]
    assert coverage.hard_negatives == 5 * 48 and coverage.left_out == 0


def test_the_cut_leaves_out_what_scores_like_the_positive(world: World) -> None:
    everything, _ = small_training_set(world, hard_depth=100)
    cut, coverage = small_training_set(world, hard_depth=100, false_negative_cut=0.9)
    assert 0 < coverage.dropped_negatives == len(everything.negatives.values) - len(cut.negatives.values)


def test_positives_in_another_language_are_known_but_not_learnt_from(world: World) -> None:
    queries = QuerySet.open(world["queries"])
    both = replace(queries, qrels={q: {**one, q.replace("en-us", "de"): 1} for q, one in queries.qrels.items()})
    data, coverage = small_training_set(world, queries=both)
    assert coverage.other_language_positives == 48
    assert all(len(data.positives[i]) == 1 and len(data.known[i]) == 2 for i in range(48))


def test_a_sample_is_enough_for_a_short_run(world: World) -> None:
    data, coverage = small_training_set(world, most_queries=10)
    assert (len(data), coverage.queries, coverage.left_out) == (10, 10, 38)


def test_nothing_to_learn_from_is_an_error(world: World) -> None:
    queries = replace(QuerySet.open(world["queries"]), qrels={})
    with pytest.raises(InputError, match="no training query has a passage labelled relevant"):
        small_training_set(world, queries=queries)


def test_the_set_is_the_same_after_it_was_written(world: World, tmp_path: Path) -> None:
    data, _ = small_training_set(world)
    data.save(tmp_path / "set")
    again = TrainingSet.open(tmp_path / "set")
    assert again.query_ids == data.query_ids and (again.by_language == data.by_language).all()
    assert all((again.negatives[i] == data.negatives[i]).all() for i in range(len(data)))
    (tmp_path / "set" / "starts.npy").unlink()
    with pytest.raises(CorruptError, match=r"starts\.npy.*run the same command again"):
        TrainingSet.open(tmp_path / "set")


@pytest.mark.parametrize("loss", ["triplet", "infonce"])
def test_a_batch_is_a_pure_function_and_the_union_of_its_shares(world: World, loss: str) -> None:
    data, _ = small_training_set(world)
    whole = maker(world, data, loss).batch(9)
    assert (maker(world, data, loss).batch(9).negatives == whole.negatives).all()
    shares = [maker(world, data, loss).batch(9, rank, 3) for rank in range(3)]
    assert sorted(q for share in shares for q in share.queries.tolist()) == sorted(whole.queries.tolist())
    rows = rows_of(whole, world)
    drawn = {
        q: rows[columns].tolist() for q, columns in zip(whole.queries.tolist(), whole.negatives.numpy(), strict=True)
    }
    for share in shares:
        own = rows_of(share, world)
        for q, columns in zip(share.queries.tolist(), share.negatives.numpy(), strict=True):
            assert own[columns].tolist() == drawn[q]
        if loss == "infonce":
            assert (share.passages == whole.passages).all()


def test_negatives_are_distinct_of_one_language_and_never_known(world: World) -> None:
    data, _ = small_training_set(world, hard_depth=3)
    langs = Passages.open(world["corpus"]).column("lang").to_pylist()
    for step in range(12):
        batch = maker(world, data, negatives=6).batch(step)
        rows = rows_of(batch, world)
        assert batch.negative_mask.all()
        for q, columns, positive in zip(
            batch.queries.tolist(), batch.negatives.numpy(), batch.positive.tolist(), strict=True
        ):
            own = rows[columns].tolist()
            assert len(set(own)) == 6 and {langs[row] for row in own} == {"en-us"}
            assert rows[positive] in data.positives[q] and not set(own) & set(data.known[q].tolist())


def test_texts_of_like_length_go_together_and_none_is_lost(world: World) -> None:
    data, _ = small_training_set(world)
    batch = maker(world, data).batch(0)
    assert len(batch.texts) > 1
    assert sorted(place for places, _, _ in batch.texts for place in places.tolist()) == list(range(7))
    for places, ids, mask in batch.texts:
        assert ids.shape[0] * ids.shape[1] <= 20 or len(places) == 1
        for place, row, there in zip(places.tolist(), ids, mask, strict=True):
            assert row[there.bool()].tolist() == data.tokens[int(batch.queries[place])].tolist()
