"""What training reads: who learns from what, what is dropped, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.distillation.dev_pool import DevPool
from retort.distillation.fakes import small_dev_pool, small_training_set
from retort.distillation.filtering import FalseNegativeFilter, false_negative_filter
from retort.distillation.prepare import prepare_dev
from retort.errors import InputError
from retort.mining.filtering import FilterSettings
from retort.models.dual_encoder import DualEncoder
from retort.models.judgements import JudgedGroup, Judgements
from retort.store import Artefact

World = dict[str, Artefact]


def partly_labelled(world: World, labelled: int) -> QuerySet:
    queries = QuerySet.open(world["queries"])
    qrels = {query: queries.qrels[query] for query in queries.ids[:labelled]}
    return QuerySet(queries.ids, queries.texts, queries.langs, queries.origins, queries.fields, qrels)


def above(world: World, threshold: float) -> FalseNegativeFilter:
    settings = FilterSettings(method="static", threshold=threshold)
    return false_negative_filter(Judgements.open(world["judgements"]), QuerySet.open(world["queries"]), settings)


def test_positives_and_candidates_of_each_query(world: World, tmp_path: Path) -> None:
    data, coverage = small_training_set(world, tmp_path / "base")
    judgements = Judgements.open(world["judgements"])
    assert (coverage.labelled, coverage.unlabelled, coverage.left_out) == (32, 0, 0)
    for i, query in enumerate(data.query_ids):
        group = judgements.group(query)
        positive, pool = data.positives[i].tolist(), data.pool[i].tolist()
        assert [data.passage_ids[row] for row in positive] == [query.replace("q", "p")]
        assert sorted(data.passage_ids[row] for row in [*positive, *pool]) == sorted(group.passage_ids)
        assert data.known[i].tolist() == positive
        start = data.judged.offsets[i]
        for k, row in enumerate(data.judged[i]):
            place = group.passage_ids.index(data.passage_ids[row])
            assert data.scores[start + k] == group.scores[place] and data.places[start + k] == place
    assert coverage.passages == len(data.passage_ids) == len(data.passages)


def test_false_negatives_leave_the_pool_and_are_never_negatives(world: World, tmp_path: Path) -> None:
    queries, judgements = QuerySet.open(world["queries"]), Judgements.open(world["judgements"])
    strict = above(world, 1.0)  # one shared word scores 2
    data, coverage = small_training_set(world, tmp_path / "base", false_negatives=strict)
    assert coverage.dropped_negatives > 0
    for i, query in enumerate(data.query_ids):
        scores = dict(zip(judgements.group(query).passage_ids, judgements.group(query).scores, strict=True))
        assert all(scores[data.passage_ids[row]] <= 1 for row in data.pool[i])
        dropped = {p for p, score in scores.items() if score > 1} - set(queries.positives(query))
        assert {data.passage_ids[row] for row in data.known[i]} == dropped | set(queries.positives(query))
        assert len(data.judged[i]) == len(scores), "what was dropped is still judged"


@pytest.mark.parametrize(("use", "unlabelled", "left_out"), [(True, 22, 0), (False, 0, 22)])
def test_unlabelled_queries_are_used_or_left_out(
    world: World, tmp_path: Path, use: bool, unlabelled: int, left_out: int
) -> None:
    everything_dropped = above(world, -1.0)
    data, coverage = small_training_set(
        world,
        tmp_path / "base",
        queries=partly_labelled(world, 10),
        use_unlabelled=use,
        negatives=0,
        false_negatives=everything_dropped,
    )
    assert (coverage.labelled, coverage.unlabelled, coverage.left_out) == (10, unlabelled, left_out)
    assert all(len(data.pool[i]) == (0 if i < 10 else 8) for i in range(len(data))), (
        "without labels nothing is a false negative"
    )


@pytest.mark.parametrize(("use", "count"), [(True, 32), (False, 20)])
def test_unjudged_queries_are_used_or_left_out(world: World, tmp_path: Path, use: bool, count: int) -> None:
    judgements = Judgements.open(world["judgements"])

    class Some:
        query_ids = judgements.query_ids[:20]

        def __getitem__(self, i: int) -> JudgedGroup:
            return judgements[i]

    data, coverage = small_training_set(world, tmp_path / "base", judgements=Some(), use_unjudged=use)
    assert len(data) == count == coverage.labelled and coverage.without_judgements == count - 20
    assert coverage.left_out == 32 - count


def test_nothing_to_learn_from_is_an_error(world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to learn from"):
        small_training_set(world, tmp_path / "base", queries=partly_labelled(world, 0), use_unlabelled=False)


def test_no_hard_negative_left_is_an_error_that_says_why(world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 hard negatives.*224 were dropped as false negatives.*loosen the filter"):
        small_training_set(world, tmp_path / "base", false_negatives=above(world, -1.0))


def test_neighbours_are_found_by_query_and_answer(world: World, tmp_path: Path) -> None:
    alone, _ = small_training_set(world, tmp_path / "base", similar=True)
    assert alone.vectors is not None and np.allclose(np.linalg.norm(alone.vectors, axis=1), 1, atol=1e-5)

    def stored(ids):
        return {name: np.eye(32, dtype=np.float32)[0] * 100 for name in ids}

    both, _ = small_training_set(world, tmp_path / "base", similar=True, passage_vectors=stored)
    assert both.vectors is not None and np.all(both.vectors[:, 0] > 0.99)


def test_words_are_stored_only_for_the_word_level(world: World, tmp_path: Path) -> None:
    data, coverage = small_training_set(world, tmp_path / "base", words=False)
    assert coverage.word_maps == 0 and (data.places == -1).all() and not len(data.passages.words.values)
    with_words, _ = small_training_set(world, tmp_path / "base")
    assert with_words.queries.words_of(0).tolist() == [[0, 0], [0, 1], [1, 2], [0, 0]]  # [CLS] two words [SEP]


def test_the_filters_threshold_moves_with_the_rounds_and_its_audit_names_pairs(world: World) -> None:
    queries, judgements = QuerySet.open(world["queries"]), Judgements.open(world["judgements"])
    rng = np.random.default_rng(0)
    judged = [replace(group, scores=rng.normal(size=len(group)).astype(np.float32)) for group in judgements]
    positive = [dict(zip(g.passage_ids, g.scores, strict=True))[g.query_id.replace("q", "p")] for g in judged]

    def built(
        labels: QuerySet, number: int = 0, earlier: list[dict[str, Any]] | None = None, **settings: Any
    ) -> FalseNegativeFilter:
        return false_negative_filter(
            cast("Judgements", judged), labels, FilterSettings(**settings), round_number=number, earlier=earlier or []
        )

    first, second = built(queries).audit, built(queries, 1).audit
    assert first is not None and second is not None
    assert first["threshold"] == pytest.approx(np.quantile(positive, 0.5))
    assert second["threshold"] == pytest.approx(np.quantile(positive, 0.4))
    never_looser = built(queries, 1, [{"round": 0, "threshold": -9.0}]).audit
    assert never_looser is not None and never_looser["threshold"] == -9
    third = built(queries, 2, second["thresholds"]).audit
    assert third is not None and [row["round"] for row in third["thresholds"]] == [1, 2], "the curve so far"
    assert third["thresholds"][-1]["threshold"] == third["threshold"] <= second["threshold"] == third["previous"]
    assert built(partly_labelled(world, 0)).audit is None, "no labels, nothing to filter"
    assert not any(built(queries, method="none")(group).any() for group in judged)

    fallen = [
        (float(score), g.query_id, p)
        for g in judged
        for score, p, out in zip(g.scores, g.passage_ids, built(queries)(g), strict=True)
        if out
    ]
    assert first["dropped"] == len(fallen) > 5
    assert all(score > first["threshold"] for score, _, _ in fallen)
    worst = first["most_certain"][0]
    assert (worst["query_id"], worst["passage_id"]) == max(fallen)[1:]


def test_a_filter_without_judged_positives_is_an_error(world: World) -> None:
    queries = QuerySet.open(world["queries"])
    elsewhere = QuerySet(
        queries.ids,
        queries.texts,
        queries.langs,
        queries.origins,
        queries.fields,
        {query: {"nowhere": 1} for query in queries.ids},
    )
    with pytest.raises(InputError, match="no positives to be a quantile of"):
        false_negative_filter(Judgements.open(world["judgements"]), elsewhere, FilterSettings())


def test_the_dev_pool_has_positives_hard_candidates_and_fill(world: World, tmp_path: Path) -> None:
    pool = small_dev_pool(world, tmp_path / "base")
    assert (len(pool), len(pool.passages)) == (16, 30)
    pool.save(tmp_path)
    back = DevPool.open(tmp_path)
    encoder = DualEncoder.load(tmp_path / "base", device="cpu", precision="fp32")
    assert back.evaluate(encoder) == pool.evaluate(encoder) > 0

    # By hand: rank of the positive by inner product.
    queries = encoder.encode_tokens([pool.queries[i].tolist() for i in range(16)])
    passages = encoder.encode_tokens([pool.passages[i].tolist() for i in range(30)])
    scores = queries @ passages.T
    ranks = [1 + int((scores[i] > scores[i, pool.positives[i][0]]).sum()) for i in range(16)]
    assert pool.evaluate(encoder) == pytest.approx(np.mean([1 / r if r <= 10 else 0 for r in ranks]))


def test_there_is_no_dev_pool_without_labels(world: World, tmp_path: Path) -> None:
    encoder = DualEncoder.load(tmp_path / "base", device="cpu", precision="fp32")
    bare = partly_labelled(world, 0)
    passages = Passages.open(world["corpus"])
    assert (
        prepare_dev(
            queries=bare, passages=passages, candidates=None, encoder=encoder, most_queries=9, pool_size=9, seed=1
        )
        is None
    )
