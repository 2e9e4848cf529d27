"""Which layer word maps are taken from: what is measured of maps, and which layer a sample chooses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.models.cross_encoder import CrossEncoder, Verdicts
from retort.models.fakes import tiny_cross_encoder
from retort.models.word_maps import WordMap
from retort.store import Store
from retort.teaching.fakes import SMALL_WORDS, publish_small_world
from retort.teaching.word_layers import LayerChoice, choose_layers, sample_pairs, sharpness


def word_map(rows: list[list[float]]) -> WordMap:
    forward = np.array(rows, dtype=np.float32)
    words = np.arange(forward.shape[1], dtype=np.int32)
    return WordMap(len(rows), 0, forward.shape[1], words, forward, np.zeros(forward.T.shape, dtype=np.float32))


def test_even_rows_are_not_sharp_and_one_word_of_four_is_log_four() -> None:
    assert sharpness(word_map([[0.25] * 4])) == pytest.approx(0, abs=1e-6)
    assert sharpness(word_map([[0, 1, 0, 0]])) == pytest.approx(math.log(4))
    assert sharpness(word_map([[0, 1, 0, 0], [0.25] * 4, [0] * 4])) == pytest.approx(math.log(4) / 2), (
        "of rows there are"
    )
    assert sharpness(word_map([[0.0] * 4])) == 0


class LayeredTeacher:
    """Three layers: of the first, all maps are sharp; of the second those of related pairs; the last is not read."""

    last_layer_read = 2

    def __init__(self) -> None:
        self.asked: list[int] = []

    def judge(self, pairs: list[tuple[str, str]], *, layers: list[int], **_: Any) -> Verdicts:
        (layer,) = layers
        self.asked.append(layer)
        sharp = [layer == 0 or (query == passage) for query, passage in pairs]
        maps = [word_map([[0.0, 1.0, 0.0, 0.0] if one and layer < 2 else [0.25] * 4]) for one in sharp]
        return Verdicts(np.zeros(len(pairs)), np.zeros(len(pairs)), maps)


def test_the_layer_that_tells_relevant_passages_from_others_is_taken() -> None:
    teacher: Any = LayeredTeacher()
    choice = choose_layers(teacher, [("a", "a"), ("b", "b")], [("a", "b"), ("b", "a")])
    assert choice.layers == (1,)
    assert choice.related == pytest.approx((1.3863, 1.3863, 0)) and choice.unrelated == pytest.approx((1.3863, 0, 0))
    assert set(teacher.asked) == {0, 1, 2}
    assert LayerChoice.model_validate(choice.model_dump(mode="json")) == choice


def test_without_pairs_it_is_the_last_that_is_read_and_the_unread_are_never_asked(tmp_path: Path) -> None:
    teacher: Any = LayeredTeacher()
    assert choose_layers(teacher, [], []) == LayerChoice(layers=(2,)) and not teacher.asked
    tiny = CrossEncoder.load(tiny_cross_encoder(tmp_path / "teacher", SMALL_WORDS), device="cpu")
    assert (tiny.layers, tiny.last_layer_read) == (2, 0)
    assert choose_layers(tiny, [("a", "b")], [("b", "a")]).layers == (0,)


def test_a_sample_pairs_queries_with_their_own_and_with_the_next_ones_passage(store: Store) -> None:
    made = publish_small_world(store, passages=12, queries=8, per_part=4, depth=3)
    queries, passages = QuerySet.open(made["queries"]), Passages.open(made["corpus"])
    related, unrelated = sample_pairs(made["candidates"], queries, passages)
    assert [query for query, _ in related] == [query for query, _ in unrelated] == queries.texts[:4], (
        "of the first part"
    )
    assert [passage for _, passage in unrelated] == [*(passage for _, passage in related[1:]), related[0][1]]
    first = made["candidates"].part(made["candidates"].parts()[0])
    own = dict(reversed(list(zip(first["query_id"].to_pylist(), first["passage_id"].to_pylist(), strict=True))))
    assert [passage for _, passage in related] == passages.texts([own[query] for query in queries.ids[:4]])
