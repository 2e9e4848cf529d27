"""Reliability by hand; what a shift and a scale can mend and what they cannot."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from retort.teaching.calibration import cross_fitted, fit_scale, reliability


def test_reliability_by_hand() -> None:
    found = reliability(np.array([0.9, 0.1, 0.1, 0.9]), np.array([True, False, True, True]), bins=2)
    assert [row["pairs"] for row in found["bins"]] == [2, 2]
    assert [row["found"] for row in found["bins"]] == [0.5, 1.0]
    assert found["ece"] == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)


def test_equal_probabilities_stay_in_one_bin_and_nothing_is_nothing() -> None:
    found = reliability(np.full(100, 0.3), np.arange(100) < 30)
    assert len(found["bins"]) == 1 and found["ece"] == pytest.approx(0)
    assert reliability(np.zeros(0), np.zeros(0, dtype=bool)) == {"ece": 0.0, "bins": []}


def test_logits_that_mean_what_they_say_are_left_alone_and_others_are_mended() -> None:
    generator = np.random.default_rng(1)
    honest = generator.normal(-1.5, 1.5, size=20_000)
    relevant = generator.random(len(honest)) < expit(honest)
    query = np.arange(len(honest)) // 10
    assert reliability(expit(honest), relevant)["ece"] < 0.02
    assert fit_scale(honest, relevant) == pytest.approx((1, 0), abs=0.1)
    moved = 3 * honest + 7
    assert reliability(expit(moved), relevant)["ece"] > 0.3
    fitted = cross_fitted(moved, relevant, query)
    assert fitted is not None and reliability(fitted, relevant)["ece"] < 0.02


def test_a_wrong_shape_stays_wrong() -> None:
    generator = np.random.default_rng(2)
    scores = generator.uniform(-4, 4, size=8000)
    relevant = generator.random(len(scores)) < np.where(np.abs(scores) < 1, 0.9, 0.1)
    fitted = cross_fitted(scores, relevant, np.arange(len(scores)) // 8)
    assert fitted is not None and reliability(fitted, relevant)["ece"] > 0.15


def test_one_kind_of_label_cannot_be_fitted() -> None:
    assert cross_fitted(np.arange(8.0), np.zeros(8, dtype=bool), np.arange(8)) is None
