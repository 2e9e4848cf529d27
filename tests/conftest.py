"""Shared by all tests: the environment Ray and the tokenizers see, and where the real data may be."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

# The same examples every time, so that one commit gives one answer; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data():
    """`../shared/data`, or a skip that says so."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data at {SHARED}: this test needs it")
    return SHARED


@pytest.fixture(autouse=True)
def private_store(tmp_path, monkeypatch):
    """Each test has its own store and node cache."""
    monkeypatch.setenv("RETORT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
