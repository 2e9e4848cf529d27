from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from retort.corpus import lookup
from retort.corpus.lookup import Passages
from retort.errors import InputError, NotFoundError
from retort.store import open_store
from retort.store.schemas import PASSAGE, part_name


def corpus(store: str, count: int, parts: int = 3, key: str = "x"):
    draft = open_store(store).draft("corpus", "c", step="test", config={"key": key, "count": count})
    with draft:
        for number, rows in enumerate(np.array_split(np.arange(count), parts)):
            columns = {
                "passage_id": [f"p{row}" for row in rows],
                "text": [f"text {row}" for row in rows],
                "title": [f"title {row}" if row % 2 else "" for row in rows],
                "lang": ["en"] * len(rows),
                "section": ["s"] * len(rows),
                "doc_id": [f"p{row}" for row in rows],
                "content_hash": ["0" * 16] * len(rows),
                "fields": [f'{{"n": {row}}}' for row in rows],
            }
            draft.write_table(part_name(number), pa.table(columns, schema=PASSAGE))
        return draft.publish(rows=count)


@pytest.fixture
def many(store, monkeypatch):
    monkeypatch.setattr(lookup, "BATCH_ROWS", 7)  # so that batches cross the parts' edges
    return Passages.open(corpus(store, 100))


def test_every_passage_is_found_by_id_and_by_row(many):
    assert len(many) == 100 and many.ids == [f"p{n}" for n in range(100)]
    assert many.rows(many.ids).tolist() == list(range(100)) and many.rows([]).dtype == np.int64
    assert many.texts(["p3", "p98", "p3"]) == ["title 3\ntext 3", "text 98", "title 3\ntext 3"]
    assert many.ids_at([99, 0]) == ["p99", "p0"] and many.texts_at(np.array([4])) == ["text 4"]
    assert list(many.iter_texts()) == many.texts(many.ids)
    assert many.column("text").to_pylist()[55] == "text 55"
    assert many.records(["p6"], ["passage_id", "fields"]) == [{"passage_id": "p6", "fields": {"n": 6}}]
    assert "p99" in many and "p100" not in many


def test_unknown_ids_are_named(many):
    with pytest.raises(NotFoundError, match=r"corpus/c .* has no passage 'p100', 'q'\."):
        many.texts(["p1", "p100", "q", "p100"])
    with pytest.raises(IndexError, match="row 100 of 100"):
        many.texts_at([100])


def test_ids_with_the_same_hash_are_told_apart(store, monkeypatch):
    class Clashing:
        def __init__(self, data: bytes, digest_size: int) -> None:
            self._data = bytes([data[-1] % 3] * digest_size)

        def digest(self) -> bytes:
            return self._data

    monkeypatch.setattr(lookup.hashlib, "blake2b", Clashing)
    passages = Passages.open(corpus(store, 40))
    assert passages.rows(passages.ids).tolist() == list(range(40))
    with pytest.raises(NotFoundError):
        passages.rows(["nobody"])


def test_files_are_built_once_and_mapped_by_copies(store, tmp_path):
    artefact = corpus(store, 10)
    first = Passages.open(artefact)
    folder = next((tmp_path / "cache" / "passages").iterdir())
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = pickle.loads(pickle.dumps(Passages.open(artefact)))
    assert again.texts(["p9"]) == first.texts(["p9"])
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps
    assert isinstance(again._hashes.base, np.memmap)
    before = pa.total_allocated_bytes()
    assert len(again.column("text")) == 10 and pa.total_allocated_bytes() == before


def test_an_interrupted_build_leaves_nothing(store, tmp_path, monkeypatch):
    artefact = corpus(store, 10)
    monkeypatch.setattr(np, "save", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Passages.open(artefact)
    assert list(Path(tmp_path / "cache" / "passages").iterdir()) == []


def test_another_kind_of_artefact_is_refused(store):
    draft = open_store(store).draft("report", "r", step="test")
    with draft:
        draft.write_json("report.json", {})
        report = draft.publish()
    with pytest.raises(InputError, match="is of kind report; a corpus is needed"):
        Passages.open(report)
