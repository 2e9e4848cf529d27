"""From candidates and qrels to training lists; and what is wrong with candidates, told before any work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from retort.errors import InputError
from retort.store import Artefact
from retort.teaching.checks import check_candidates
from retort.teaching.fakes import FakePassages, FakeQueries
from retort.teaching.prepare import HeldOut, prepare
from retort.teaching.training_set import TrainingSet

Publish = Callable[..., Artefact]

PASSAGES = FakePassages({f"p{i}": f"w{i}" for i in range(30)})
QUERIES = FakeQueries(
    ids=["a", "b", "c", "unlabelled"],
    texts=["w1", "w2", "w3", "w4"],
    qrels={"a": {"p1": 1}, "b": {"p2": 2, "p3": 0}, "c": {"p20": 1}},
)
CANDIDATES = [
    [
        ("a", "p5", "bm25", 2),
        ("a", "p4", "bm25", 1),
        ("a", "p1", "labelled", 0),
        ("a", "p4", "dense", 1),
        ("a", "p9", "random", 1),
    ],
    [("b", "p3", "bm25", 1), ("b", "p2", "dense", 1), ("c", "p6", "dense", 1), ("unlabelled", "p7", "bm25", 1)],
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(30))])}
    core = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]")


def make(publish_candidates: Publish, tokenizer: Any, **more: Any) -> TrainingSet:
    options = {"held_out": HeldOut(queries=5, depth=4, seed=1), **more}
    candidates = publish_candidates(CANDIDATES)
    return prepare(
        candidates=candidates, queries=QUERIES, passages=PASSAGES, tokenizer=tokenizer, max_tokens=16, **options
    )


def words(data: TrainingSet, rows: Any) -> list[str]:
    """Passage ids by their one token."""
    return [f"p{int(data.passage_tokens[int(row)][0]) - 4}" for row in rows]


DEV = FakeQueries(ids=["d1", "d2"], texts=["w8", "w9"], qrels={"d1": {"p8": 1}})


def test_negatives_are_the_candidates_that_are_not_labelled_relevant(
    publish_candidates: Publish, tokenizer: Any
) -> None:
    data = make(publish_candidates, tokenizer, dev_queries=DEV)
    assert data.query_ids[:3] == ["a", "b", "c"] and data.training_queries == 3
    assert [words(data, data.positives[i]) for i in range(3)] == [["p1"], ["p2"], ["p20"]]
    # Rank order, sources in turn, each once, random ones last; a passage judged with grade 0 is a negative.
    assert [words(data, data.pool[i]) for i in range(3)] == [["p4", "p5", "p9"], ["p3"], ["p6"]]


def test_a_share_of_the_training_queries_is_held_out_and_not_trained_on(
    publish_candidates: Publish, tokenizer: Any
) -> None:
    data = make(publish_candidates, tokenizer)
    assert data.training_queries == 2 and len(data.held_out) == 1
    assert sorted(data.query_ids) == ["a", "b", "c"]


def test_dev_lists_hold_their_positives_and_the_first_candidates(publish_candidates: Publish, tokenizer: Any) -> None:
    ranked = publish_candidates([[("d1", f"p{10 + i}", "dense", i) for i in range(9)]], name="dev")
    data = make(publish_candidates, tokenizer, dev_queries=DEV, dev_candidates=ranked)
    assert words(data, data.held_out[0]) == ["p8", "p10", "p11", "p12"]
    assert data.grades[0].tolist() == [1, 0, 0, 0]
    assert data.query_tokens[3].tolist() == [4 + 8]


def test_the_search_that_found_the_held_out_lists_is_measured_too(publish_candidates: Publish, tokenizer: Any) -> None:
    rows = [
        [
            ("d1", "p8", "labelled", 0),
            ("d1", "p8", "bm25", 1),
            ("d1", "p5", "dense", 1),
            ("d1", "p8", "dense", 2),
            ("d1", "p6", "dense", 3),
        ]
    ]
    data = make(publish_candidates, tokenizer, dev_queries=DEV, dev_candidates=publish_candidates(rows, name="dev"))
    assert data.first_stage == pytest.approx(1 / np.log2(3))
    bm25_only = publish_candidates([[("d1", "p8", "bm25", 1), ("d1", "p5", "bm25", 2)]], name="bm25")
    assert make(publish_candidates, tokenizer, dev_queries=DEV, dev_candidates=bm25_only).first_stage == pytest.approx(
        1.0
    )
    assert make(publish_candidates, tokenizer, dev_queries=DEV).first_stage is None


def test_dev_queries_without_candidates_rank_random_passages(publish_candidates: Publish, tokenizer: Any) -> None:
    data = make(publish_candidates, tokenizer, dev_queries=DEV)
    row = words(data, data.held_out[0])
    assert row[0] == "p8" and len(row) == 4 and "p8" not in row[1:]


def test_nothing_labelled_is_told(publish_candidates: Publish, tokenizer: Any) -> None:
    candidates = publish_candidates(CANDIDATES)
    with pytest.raises(InputError, match=r"0 queries of .* labelled relevant"):
        prepare(
            candidates=candidates, queries=FakeQueries(QUERIES.ids, QUERIES.texts), passages=PASSAGES,
            tokenizer=tokenizer, max_tokens=16, held_out=HeldOut(5, 4, 1),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "nowhere", "bm25", 1)], "names 1 passages that the corpus does not have: 'nowhere'"),
        ([("z", "p1", "bm25", 1)], "names 1 queries that the queries do not have: 'z'"),
        ([("a", "blank", "bm25", 1)], "names 1 passages with an empty text: 'blank'"),
        ([("e", "p1", "bm25", 1)], "names 1 queries with an empty text: 'e'"),
        ([("a", f"x{i}", "bm25", 1) for i in range(5)], "names 5 passages .*'x0', 'x1', 'x2' and 2 more"),
        ([], "holds no pairs"),
    ],
)
def test_candidates_that_cannot_be_used_are_refused(
    publish_candidates: Publish, rows: list[tuple[str, str, str, int]], message: str
) -> None:
    queries = FakeQueries(["a", "e"], ["text", "  "])
    passages = FakePassages({"p1": "text", "blank": "\n "})
    with pytest.raises(InputError, match=message):
        check_candidates(publish_candidates([rows]), queries, passages)


def test_unreadable_texts_are_left_to_the_quarantine(publish_candidates: Publish) -> None:
    class Broken(FakePassages):
        def texts(self, ids: Any) -> list[str]:
            if "p1" in ids:
                raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
            return super().texts(ids)

    check_candidates(publish_candidates(CANDIDATES), QUERIES, Broken(PASSAGES.by_id))
