"""Unit tests run without Ray, and mean it."""

import pytest


@pytest.fixture(autouse=True)
def disallow_ray(monkeypatch):
    import ray

    def refuse(*args, **kwargs):
        raise AssertionError("a unit test called ray.init; tests that need Ray live in tests/ray")

    monkeypatch.setattr(ray, "init", refuse)
