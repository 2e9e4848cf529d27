"""The benchmark's own notion of a false negative: by packages' names and texts, never by a model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[3] / "benchmarks" / "distillation_truth.py"
spec = importlib.util.spec_from_file_location("distillation_truth", PATH)
assert spec is not None and spec.loader is not None
truth = importlib.util.module_from_spec(spec)
spec.loader.exec_module(truth)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("python3-numpy", "python-numpy-doc", True),
        ("librdkafka1", "librdkafka-dev", True),
        ("librust-netlink-packet-route-dev", "librust-netlink-packet-core-dev", True),
        ("golang-github-urfave-cli-dev", "golang-github-urfave-cli-v2-dev", True),
        ("librust-r2d2-dev", "librust-pool-dev", False),
        ("python3-flask", "python3-django", False),
        ("libfoo-perl", "libbar-perl", False),
        ("dev", "doc", False),
    ],
)
def test_siblings_share_a_stem_and_not_only_marks(one: str, other: str, expected: bool) -> None:
    assert truth.is_sibling(one, other) is truth.is_sibling(other, one) is expected


def test_duplicates_share_words_of_description_or_synopsis() -> None:
    text = "a fast tool that reads kafka topics and prints them to the terminal as lines"
    near = "a fast tool that reads kafka topics and prints them to the screen as lines"
    far = "a puzzle game in which blocks of one colour fall from the sky"
    assert truth.is_duplicate((text, near), (None, None))
    assert not truth.is_duplicate((text, far), ("kafka client", "block game"))
    assert truth.is_duplicate((text, far), ("Apache Kafka producer", "apache kafka producer library"))
    assert not truth.is_duplicate((text, far), ("library", "library")), "too few words to say so"
