"""The teacher's audit on the student: which slices were lost in training, and what the card says of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.distillation.student_audit import audit_section, audit_student
from retort.errors import InputError
from retort.store import Artefact, open_store
from retort.teaching.fakes import publish_small_world

TEACHER = ("d" * 64, "judge")


class Known:
    """An encoder that puts a query on its passage; on passages of more than `most_words` words, on the wrong side of it."""

    def __init__(self, made: dict[str, Artefact], most_words: int = 10**6) -> None:
        queries, passages = QuerySet.open(made["queries"]), Passages.open(made["corpus"])
        texts = dict(zip(passages.ids, passages.texts(passages.ids), strict=True))
        self._rows = {text: number for number, text in enumerate(texts.values())}
        self._asked: dict[str, np.ndarray] = {}
        for id_, asked in zip(queries.ids, queries.texts, strict=True):
            vector = np.zeros(len(self._rows), dtype=np.float32)
            for positive in queries.positives(id_):
                text = texts[positive]
                vector[self._rows[text]] = 1.0 if len(text.split()) <= most_words else -1.0
            self._asked[asked] = vector

    def encode(self, texts: list[str], side: str) -> np.ndarray:
        if side == "query":
            return np.stack([self._asked[text] for text in texts])
        return np.eye(len(self._rows), dtype=np.float32)[[self._rows[text] for text in texts]]


def published_audit(made: dict[str, Artefact], slices: Sequence[dict[str, Any]] = (), **config: Any) -> Artefact:
    entry = {
        "name": "judge",
        "digest": TEACHER[0],
        "unseen": {"pair_accuracy": {"mean": 0.9}, "ndcg@10": {"mean": 0.8}},
        "length_correlation": None,
        "worst_slice": None,
        "slices": list(slices),
    }
    inputs = {role: made[role] for role in ("corpus", "queries", "candidates")}
    settings = {"max_queries": 500, "seed": 13, **config}
    with open_store().draft("report", "judge-audit", step="audit", inputs=inputs, config=settings) as draft:
        draft.write_json("audit.json", {"teachers": [entry]})
        return draft.publish()


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Artefact]:
    return publish_small_world(open_store(), passages=80, queries=64, per_part=8, depth=6)


def test_an_encoder_like_its_base_lost_nothing(made: dict[str, Artefact]) -> None:
    found = audit_student(published_audit(made), TEACHER, Known(made), Known(made), [], seed=13)
    assert found is not None and found["lost"] == [] and found["queries"] == 64 and found["left_out"] == 0
    accuracy = found["systems"]["student"]["unseen"]["pair_accuracy"]["mean"]
    assert accuracy > 0.97
    section = audit_section(found)
    assert f"| student | {accuracy:.3f} |" in section and "| teacher | 0.900 | 0.800 |" in section
    assert "In no slice" in section


def test_a_slice_that_training_cost_is_named(made: dict[str, Artefact]) -> None:
    found = audit_student(published_audit(made), TEACHER, Known(made, most_words=11), Known(made), [], seed=13)
    assert found is not None
    lost = {(row["by"], row["label"]): row["change"] for row in found["lost"]}
    assert lost[("length", "over 11 words")] < -0.2
    assert "length over 11 words (-" in audit_section(found)


def test_slices_are_cut_as_in_the_whole_audit_whatever_is_left_out(made: dict[str, Artefact]) -> None:
    reached = {"by": "length", "label": "over 11 words", "accuracy": {"mean": 0.93}}
    queries, passages = QuerySet.open(made["queries"]), Passages.open(made["corpus"])
    short = [
        text
        for id_, text in zip(queries.ids, queries.texts, strict=True)
        if len(passages.texts(queries.positives(id_))[0].split()) <= 8
    ]
    assert 5 < len(short) < 50  # without these, passages of other lengths would be the longest third
    audit = published_audit(made, [reached])
    found = audit_student(audit, TEACHER, Known(made, most_words=11), Known(made), short, seed=13)
    assert found is not None and found["left_out"] >= len(short)
    lost = {(row["by"], row["label"]): row["teacher"] for row in found["lost"]}
    assert lost[("length", "over 11 words")] == 0.93


def test_queries_that_it_learnt_from_do_not_count(made: dict[str, Artefact]) -> None:
    texts = QuerySet.open(made["queries"]).texts
    found = audit_student(published_audit(made), TEACHER, Known(made), Known(made), texts[:40], seed=13)
    left = len({text for text in texts if text not in set(texts[:40])})
    assert found is not None and found["queries"] <= 64 - 40 and found["queries"] >= left - 5
    assert audit_student(published_audit(made), TEACHER, Known(made), Known(made), texts, seed=13) is None


def test_an_audit_of_other_teachers_is_refused(made: dict[str, Artefact]) -> None:
    with pytest.raises(InputError, match="is about judge"):
        audit_student(published_audit(made), ("e" * 64, "other"), Known(made), Known(made), [], seed=13)
