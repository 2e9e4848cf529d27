"""Which of a query's candidates are taken for false negatives: `mining/filtering.py` meets the judgements.

Only queries with labels are filtered, for without a positive nothing is a negative. What was dropped is audited (how many,
which, the threshold), and goes into the encoder's metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retort.mining.filtering import FilterSettings, filter_negatives
from retort.models.judgements import JudgedGroup, Judgements

__all__ = ["FalseNegativeFilter", "Labels", "false_negative_filter"]


class Labels(Protocol):
    """What is asked of queries."""

    def positives(self, query_id: str) -> list[str]:
        """Ids of the passages labelled relevant."""


@dataclass(frozen=True)
class FalseNegativeFilter:
    """Says which candidates of a judged query to drop; without arguments none."""

    dropped: Mapping[str, NDArray[np.bool_]] = field(
        default_factory=dict
    )  # by query id, in the order of its judgements
    audit: Mapping[str, Any] | None = None  # JSON-ready; None where nothing was there to filter

    def __call__(self, group: JudgedGroup) -> NDArray[np.bool_]:
        """[n] True for candidates of the group to drop; never a positive."""
        none = np.zeros(len(group), dtype=bool)
        return self.dropped.get(group.query_id, none)


def false_negative_filter(
    judgements: Judgements,
    queries: Labels,
    settings: FilterSettings,
    *,
    round_number: int = 0,
    earlier: Sequence[Mapping[str, Any]] = (),
) -> FalseNegativeFilter:
    """Build the filter of a round.

    Args:
        judgements: the teacher's.
        queries: with their labels; without any label nothing is filtered.
        settings: method and its numbers.
        round_number: 0 for the first round.
        earlier: `thresholds` of the last round's audit; empty in the first.

    Returns:
        The filter; its audit is `mining.filtering.FilterAudit`'s, with ids in its examples, and with `thresholds`: the curve of
        {"round", "threshold"} up to this round.

    Raises:
        InputError: there are labels, but none of these passages was judged, and the method needs their scores.
    """
    scores: list[NDArray[np.float32]] = []
    positive: list[NDArray[np.bool_]] = []
    names: list[str] = []
    places: list[int] = []
    for number, group in enumerate(judgements):
        relevant = queries.positives(group.query_id)
        if relevant:
            names.append(group.query_id)
            places.append(number)
            scores.append(group.scores)
            positive.append(np.isin(np.array(group.passage_ids, dtype=object), relevant))
    if not names:
        return FalseNegativeFilter()
    sizes = [len(part) for part in scores]
    outcome = filter_negatives(
        np.concatenate(scores),
        np.concatenate(positive),
        np.repeat(np.arange(len(names)), sizes),
        settings=settings,
        round_number=round_number,
        previous=earlier[-1]["threshold"] if earlier else None,
    )
    starts = np.cumsum([0, *sizes])
    parts = np.split(~outcome.kept, starts[1:-1])
    audit = outcome.audit.as_json()
    audit["thresholds"] = [*earlier, {"round": round_number, "threshold": audit["threshold"]}]
    for examples in (audit["most_certain"], audit["most_doubtful"]):
        for example in examples:
            number = int(np.searchsorted(starts, example["pair"], side="right")) - 1
            group = judgements[places[number]]
            example["query_id"] = group.query_id
            example["passage_id"] = group.passage_ids[example.pop("pair") - int(starts[number])]
    return FalseNegativeFilter(dict(zip(names, parts, strict=True)), audit)
