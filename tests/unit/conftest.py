"""Unit tests run without Ray, and mean it."""

import pytest


@pytest.fixture(autouse=True)
def disallow_ray(monkeypatch):
    import ray

    def refuse(*args, **kwargs):
        raise AssertionError("a unit test called ray.init; tests that need Ray live in tests/ray")

    monkeypatch.setattr(ray, "init", refuse)


@pytest.fixture
def without_ray(monkeypatch):
    """Run part workers in this process: what Ray does with them is tested in tests/ray."""

    def in_turn(worker, settings, parts, resources, *, describe, progress=None, weights=None):
        made = worker(**settings)
        return [dict(made(part)) for part in parts]

    monkeypatch.setattr("retort.indexing.stages.map_parts", in_turn)
