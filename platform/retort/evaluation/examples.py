"""Three example queries with the student's hits, chosen to inform and not to flatter.

One where the student finds what the base misses, one where both agree, one where the student is worse: whichever of
them exist. The choice depends on scores and ids only, so the same run shows the same examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from retort.evaluation.wording import snippet

Ranking = list[tuple[str, float]]
HITS_SHOWN = 5


def choose_queries(student: Mapping[str, float], base: Mapping[str, float] | None) -> list[tuple[str, str]]:
    """Up to three (query_id, why it was chosen); values are MRR@10 per query."""
    if base is None:
        ordered = sorted(student, key=lambda query: (-student[query], query))
        picks = [
            (ordered[0], "found first"),
            (ordered[len(ordered) // 2], "the middle one"),
            (ordered[-1], "the worst"),
        ]
        return list({query: (query, why) for query, why in reversed(picks)}.values())[::-1]
    change = {query: student[query] - base[query] for query in student}
    gains = sorted((query for query in change if change[query] > 0), key=lambda query: (-change[query], query))
    losses = sorted((query for query in change if change[query] < 0), key=lambda query: (change[query], query))
    equal = sorted((query for query in change if change[query] == 0), key=lambda query: (-student[query], query))
    # Of the equally good ones the middle by id: the first would be the same odd query of every corpus.
    found = [query for query in equal if student[query] == student[equal[0]]]
    picks = [(gains[0], "the student is better than the base")] if gains else []
    picks += [(found[len(found) // 2], "student and base do equally well")] if found else []
    picks += [(losses[0], "the student is worse than the base")] if losses else []
    spare = [(query, "the student is better than the base") for query in gains[1:3]]
    spare += [
        (query, "student and base do equally well") for query in equal if query not in {pick for pick, _ in picks}
    ][:2]
    return (picks + spare)[:3]


def example_rows(
    chosen: Sequence[tuple[str, str]],
    rankings: Mapping[str, Mapping[str, Ranking]],
    qrels: Mapping[str, Mapping[str, int]],
    query_text: Mapping[str, str],
    passages: Callable[[list[str]], dict[str, tuple[str, str]]],
    shown: str,
) -> list[dict[str, Any]]:
    """The examples of report.json.

    Args:
        chosen: From `choose_queries`.
        rankings: `{system: {query_id: ranking}}`.
        qrels: Which passages are relevant.
        query_text: `{query_id: text}`.
        passages: Looks up `{passage_id: (title, text)}`.
        shown: The system whose hits are listed (the student, where there is one).

    Returns:
        `{"query_id", "query", "why", "system", "ranks": {system: rank of the first relevant passage | None}, "hits":
        [{"rank", "passage_id", "score", "title", "snippet", "relevant"}], "expected": {"passage_id", "title",
        "snippet"} | None}`; `expected` is the relevant passage where no hit shown is relevant.
    """
    rows: list[dict[str, Any]] = []
    for query, why in chosen:
        relevant = {passage for passage, grade in qrels[query].items() if grade >= 1}
        hits = rankings[shown][query][:HITS_SHOWN]
        found = bool(relevant.intersection(passage for passage, _ in hits))
        best = min(relevant, key=lambda passage: (-qrels[query][passage], passage)) if relevant and not found else None
        texts = passages([passage for passage, _ in hits] + ([best] if best else []))
        rows.append(
            {
                "query_id": query,
                "query": query_text[query],
                "why": why,
                "system": shown,
                "ranks": {
                    system: _first_relevant(run[query], relevant) for system, run in rankings.items() if query in run
                },
                "hits": [
                    {
                        "rank": rank,
                        "passage_id": passage,
                        "score": score,
                        "title": texts[passage][0],
                        "snippet": snippet(texts[passage][1]),
                        "relevant": passage in relevant,
                    }
                    for rank, (passage, score) in enumerate(hits, start=1)
                ],
                "expected": {"passage_id": best, "title": texts[best][0], "snippet": snippet(texts[best][1])}
                if best
                else None,
            }
        )
    return rows


def _first_relevant(ranking: Ranking, relevant: set[str]) -> int | None:
    return next((rank for rank, (passage, _) in enumerate(ranking, start=1) if passage in relevant), None)
