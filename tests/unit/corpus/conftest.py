"""Small corpora on disk, and the step run on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from retort.corpus.ingest import IngestConfig, ingest
from retort.store import Artefact

settings.register_profile("no-stopwatch", deadline=None)  # a busy machine is no failure
settings.load_profile("no-stopwatch")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def run(store: str) -> Callable[..., dict[str, Artefact]]:
    def go(source: Path | str, **fields: Any) -> dict[str, Artefact]:
        return ingest(IngestConfig(store=store, source=str(source), **fields))

    return go
