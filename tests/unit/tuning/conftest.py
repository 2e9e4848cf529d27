"""A small world in two languages, and its tiny encoder."""

from __future__ import annotations

from pathlib import Path

import pytest

from retort.store import Artefact, open_store
from retort.tuning.fakes import publish_two_languages


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Artefact]:
    """corpus, encoder, embeddings, queries, dev and guard; `tmp_path/base` holds the encoder."""
    return publish_two_languages(open_store(), tmp_path / "base")
