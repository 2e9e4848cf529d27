"""Shared by the tests of releases."""

import pytest

from retort.store import open_store


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def without_ray(monkeypatch):
    """Run part workers in this process: what Ray does with them is tested in tests/ray."""

    def in_turn(worker, settings, parts, resources, *, describe, progress=None, weights=None):
        made = worker(**settings)
        return [dict(made(part)) for part in parts]

    monkeypatch.setattr("retort.indexing.stages.map_parts", in_turn)
