"""A small world that a tiny model can learn from: corpus, queries, judgements with word maps, and a tiny encoder."""

from __future__ import annotations

from pathlib import Path

import pytest

from retort.distillation.fakes import publish_judgements
from retort.models.fakes import tiny_encoder
from retort.store import Artefact, open_store
from retort.teaching.fakes import SMALL_WORDS, publish_small_world


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Artefact]:
    """The artefacts by kind; `tmp_path/base` holds a tiny encoder."""
    tiny_encoder(tmp_path / "base", SMALL_WORDS)
    store = open_store()
    artefacts = publish_small_world(store, passages=40, queries=32, per_part=8, depth=8)
    return {**artefacts, "judgements": publish_judgements(store, artefacts)}
