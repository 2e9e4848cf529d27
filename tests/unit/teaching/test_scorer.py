"""Judging a part: every pair once, poison set apart, earlier scores taken over, the same bytes each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from retort.models.judgements import Judgements
from retort.store import Artefact, Draft, Store
from retort.store.schemas import JUDGEMENT
from retort.teaching.fakes import FakeJudge
from retort.teaching.reuse import ReuseIndex, pair_hash
from retort.teaching.scorer import PartScorer

Publish = Callable[..., Artefact]
Pairs = list[tuple[str, str]]


class Texts:
    """Texts by id: the id itself, unless told otherwise."""

    def __init__(self, special: dict[str, str] | None = None) -> None:
        self._special = special or {}

    def texts(self, ids: Sequence[str]) -> list[str]:
        return [self._special.get(id_, f"text of {id_}") for id_ in ids]


@pytest.fixture
def judge_all(store: Store, publish_candidates: Publish) -> Callable[..., tuple[Artefact, dict[str, Any], FakeJudge]]:
    """Judge a list of pairs as one part; return judgements, stats and the judge."""

    def run(
        pairs: Pairs, *, passages: Texts | None = None, reuse: ReuseIndex | None = None, name: str = "j"
    ) -> tuple[Artefact, dict[str, Any], FakeJudge]:
        candidates = publish_candidates([[(query, passage, "bm25", 1) for query, passage in pairs]], name)
        draft = store.draft("judgements", name, step="test", config={"name": name})
        judge = FakeJudge()
        scorer = PartScorer(
            draft=draft, candidates=candidates, queries=Texts(), passages=passages or Texts(), judge=judge, reuse=reuse
        )
        with draft:
            stats = scorer("part-00000.parquet")
            return draft.publish(), stats, judge

    return run


PAIRS = [("q1", "p1"), ("q1", "p22"), ("q1", "p1"), ("q2", "p1"), ("q2", "p333")]


def test_each_pair_is_judged_once_in_the_order_of_the_candidates(judge_all: Callable) -> None:
    artefact, stats, judge = judge_all(PAIRS)
    table = artefact.table()
    assert table.schema.equals(JUDGEMENT)
    assert list(zip(table["query_id"].to_pylist(), table["passage_id"].to_pylist(), strict=True)) == list(
        dict.fromkeys(PAIRS)
    )
    assert table["score"].to_pylist() == [0.0, 1.0, 0.0, 2.0]
    assert table["trust"].to_pylist() == [1.0] * 4
    assert len(judge.seen) == stats["pairs"] == 4
    assert table["content_hash"][0].as_py() == pair_hash("text of q1", "text of p1")


def test_the_longest_pairs_come_first(judge_all: Callable) -> None:
    _, _, judge = judge_all(PAIRS)
    lengths = [len(query) + len(passage) for query, passage in judge.seen]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("lone \ud800 surrogate", "passage: UnicodeEncodeError"),
        ("boom", "IndexError: index out of range"),
        ("nan", "the teacher's logit is nan"),
    ],
)
def test_poisoned_rows_go_to_the_quarantine_and_all_others_are_judged(
    judge_all: Callable, text: str, reason: str
) -> None:
    pairs = [("q1", f"p{i}") for i in range(20)]
    artefact, stats, _ = judge_all(pairs, passages=Texts({"p7": text}))
    assert artefact.table()["passage_id"].to_pylist() == [p for _, p in pairs if p != "p7"]
    (row,) = artefact.part("quarantine-00000.parquet").to_pylist()
    assert (row["query_id"], row["passage_id"]) == ("q1", "p7") and row["reason"].startswith(reason)
    assert (stats["pairs"], stats["quarantined"]) == (19, 1)


def test_a_clean_part_has_no_quarantine_file(judge_all: Callable) -> None:
    assert judge_all(PAIRS)[0].files() == ["part-00000.parquet"]


def test_what_was_unreadable_in_a_killed_run_and_is_read_now_is_not_counted_as_quarantined(
    judge_all: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed_before_the_part(draft: Draft, path: str, table: Any) -> None:
        if draft.kind == "judgements" and path.startswith("part-"):
            raise KeyboardInterrupt
        write_table(draft, path, table)

    write_table = Draft.write_table
    with monkeypatch.context() as first, pytest.raises(KeyboardInterrupt):
        first.setattr(Draft, "write_table", killed_before_the_part)
        judge_all(PAIRS, passages=Texts({"p22": "boom"}))
    artefact, stats, _ = judge_all(PAIRS)
    assert artefact.files() == ["part-00000.parquet"] and (stats["pairs"], stats["quarantined"]) == (4, 0)


def test_unchanged_pairs_are_taken_from_earlier_judgements(judge_all: Callable) -> None:
    earlier, _, _ = judge_all(PAIRS, name="before")
    changed = [*PAIRS, ("q2", "p4444"), ("q3", "p1")]
    artefact, stats, judge = judge_all(
        changed, passages=Texts({"p22": "new text"}), reuse=ReuseIndex.open(earlier), name="after"
    )
    fresh, _, _ = judge_all(changed, passages=Texts({"p22": "new text"}), name="fresh")
    assert stats["reused"] == 3
    assert sorted(judge.seen) == [
        ("text of q1", "new text"),
        ("text of q2", "text of p4444"),
        ("text of q3", "text of p1"),
    ]
    assert artefact.digest == fresh.digest


def test_pair_hashes_tell_where_the_query_ends() -> None:
    assert pair_hash("ab", "c") != pair_hash("a", "bc")


def test_judgements_are_read_back_by_query(judge_all: Callable) -> None:
    artefact, _, _ = judge_all(PAIRS)
    judgements = Judgements.open(artefact)
    assert judgements.query_ids == ["q1", "q2"] and len(judgements) == 2 and judgements.pairs == 4
    group = judgements.group("q2")
    assert group.passage_ids == ["p1", "p333"]
    assert group.scores.dtype == group.trust.dtype == "float32"
    assert group.scores.tolist() == [0.0, 2.0] and group.trust.tolist() == [1.0, 1.0]
    assert group.word_maps == [bytes([len("text of p1")]), bytes([len("text of p333")])]
    assert [len(group) for group in judgements] == [2, 2]
