"""Reciprocal rank fusion: several rankings of one query become one, by ranks alone (Cormack, Clarke, Buettcher, SIGIR
2009).

Scores of different systems (BM25, cosine, logits) have no common scale; ranks do.
"""

from collections.abc import Sequence


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[str]],
    *,
    smoothing: float = 60.0,
    weights: Sequence[float] | None = None,
    limit: int | None = None,
) -> list[tuple[str, float]]:
    """Passages by the sum over rankings of weight / (smoothing + rank), best first; equal sums by ascending passage id.

    Args:
        rankings: One list of passage ids per system, best first; a passage absent from a list gains nothing from it.
            Of a passage named twice in a list only the better rank counts.
        smoothing: The paper's k, 60: the larger, the less the first ranks dominate; above -1 (ranks start at 1).
        weights: One weight of at least 0 per ranking; equal when not given.
        limit: Keep this many; all when not given.

    Raises:
        ValueError: another number of weights than rankings, a negative weight, or smoothing of -1 and below.
    """
    if weights is None:
        weights = [1.0] * len(rankings)
    if len(weights) != len(rankings) or any(weight < 0 for weight in weights):
        raise ValueError(f"expected {len(rankings)} weights of at least 0, one per ranking, not {list(weights)}")
    if smoothing <= -1:
        raise ValueError(f"smoothing must be above -1, not {smoothing}")
    scores: dict[str, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, passage in enumerate(dict.fromkeys(ranking), start=1):
            scores[passage] = scores.get(passage, 0.0) + weight / (smoothing + rank)
    fused = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return fused if limit is None else fused[:limit]
