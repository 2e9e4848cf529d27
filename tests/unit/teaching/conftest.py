"""A store and a way to fill it, shared by the tests of the teaching room."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from retort.store import Artefact, Store, open_store
from retort.store.schemas import CANDIDATE

Row = tuple[str, str, str, int]


@pytest.fixture
def store() -> Store:
    """The test's own store, empty."""
    return open_store()


@pytest.fixture
def publish_candidates(store: Store) -> Callable[..., Artefact]:
    """Publish candidates from parts of (query, passage, source, rank)."""

    def publish(parts: list[list[Row]], name: str = "c") -> Artefact:
        draft = store.draft("candidates", name, step="test", config={"name": name})
        with draft:
            for number, rows in enumerate(parts):
                table = [{"query_id": q, "passage_id": p, "source": s, "rank": r, "score": 0.0} for q, p, s, r in rows]
                draft.write_table(f"part-{number:05d}.parquet", pa.Table.from_pylist(table, schema=CANDIDATE))
            return draft.publish()

    return publish
