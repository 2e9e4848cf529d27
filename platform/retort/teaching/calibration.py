"""Does a logit mean what it says: reliability of sigmoid(logit) against the labels. Pure functions over arrays.

    reliability(probabilities, relevant)    bins of about equal size and the expected calibration error (ECE)
    cross_fitted(scores, relevant, query)   probabilities after the best shift and scale of the logits

A teacher trained by comparing passages (listwise, pairwise) is free to move all logits of a query by the same amount, and
distillation, which compares them too, does not see that amount. So two figures are given: the raw one, and the one after a
scale and a shift that were fitted on the other half of the queries. What is left then is a shape that no temperature mends.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

__all__ = ["cross_fitted", "fit_scale", "reliability"]

Floats = NDArray[np.float64]
BINS = 10
RIDGE = 1e-3  # keeps the scale finite where scores part the labels completely


def reliability(probabilities: Floats, relevant: NDArray[np.bool_], bins: int = BINS) -> dict[str, Any]:
    """Return {"ece", "bins": [{"low", "high", "said", "found", "pairs"}]}; no pairs give an ECE of 0 and no bins.

    Bins hold about equally many pairs (equal probabilities stay together): most pairs of a candidate list are far from
    relevant, so bins of equal width would hold nearly all of them in one.
    """
    order = np.argsort(probabilities, kind="stable")
    said, found = probabilities[order], relevant[order].astype(np.float64)
    cuts = np.linspace(0, len(said), bins + 1).round().astype(int)
    # A cut moves to the end of a run of equal probabilities.
    cuts = np.unique([0, *(int(np.searchsorted(said, said[cut - 1], side="right")) for cut in cuts[1:] if cut)])
    rows, error = [], 0.0
    for start, stop in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        mean, share = float(said[start:stop].mean()), float(found[start:stop].mean())
        error += abs(mean - share) * (stop - start) / len(said)
        rows.append(
            {"low": float(said[start]), "high": float(said[stop - 1]), "said": mean, "found": share, "pairs": stop - start}
        )  # fmt: skip
    return {"ece": error, "bins": rows}


def fit_scale(scores: Floats, relevant: NDArray[np.bool_]) -> tuple[float, float]:
    """Return (scale, shift) such that sigmoid(scale * score + shift) fits the labels best (Platt 1999)."""
    labels = relevant.astype(np.float64)
    spread = float(scores.std()) or 1.0
    centred = (scores - scores.mean()) / spread  # of one size, so that the optimiser needs no tuning

    def loss(x: Floats) -> tuple[float, Floats]:
        logits = x[0] * centred + x[1]
        slack = expit(logits) - labels
        value = float(np.mean(np.logaddexp(0, logits) - labels * logits)) + RIDGE * float(x[0] ** 2)
        return value, np.array([np.mean(slack * centred) + 2 * RIDGE * x[0], np.mean(slack)])

    scale, shift = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
    return float(scale / spread), float(shift - scale * scores.mean() / spread)


def cross_fitted(scores: Floats, relevant: NDArray[np.bool_], query: NDArray[np.int64]) -> Floats | None:
    """Return [n] probabilities, each by a scale and a shift that were fitted on the other half of the queries.

    None where a half has pairs of one label only.
    """
    _, number = np.unique(query, return_inverse=True)
    half = number % 2 == 0
    fitted = np.empty(len(scores))
    for here in (half, ~half):
        there = relevant[~here]
        if not there.any() or there.all():
            return None
        scale, shift = fit_scale(scores[~here], there)
        fitted[here] = expit(scale * scores[here] + shift)
    return fitted
