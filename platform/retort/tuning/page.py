"""page.html: what tuning did to every language, as one file that opens offline, for the person who decides whether to serve it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retort.pages.numbers import measure_title, score, size
from retort.pages.rendering import render
from retort.tuning.charts import languages_chart, looks_chart, sweep_chart
from retort.tuning.looks import MEASURES
from retort.tuning.wording import points, rate_text, some

__all__ = ["render_page"]

STATES = {
    "kept": "kept",
    "fell": "fell",
    "unclear": "unclear",
    "unguarded": "unguarded",
    "not_measurable": "not measurable",
}
_KINDS = {"same": "same language", "cross": "across languages", "target": "tuned task"}


@dataclass(frozen=True)
class _Verdict:
    """The first thing a reader sees. `mood`: good, unsure or bad."""

    mood: str
    title: str


def render_page(report: dict[str, Any]) -> str:
    """The page of a tuning's report (the value of report.json). Every text from data is escaped."""
    judgement = report["judgement"]
    margin = judgement["margin"] if judgement else 0.015
    sweep = sorted(report["sweep"] or [], key=lambda row: float(row["rate"]))
    return render(
        "retort.tuning",
        "templates/page.html.jinja",
        {
            "score": score,
            "size": size,
            "points": points,
            "rate": rate_text,
            "measure": measure_title,
            "state": lambda state: STATES.get(state, state),
            "percent": _percent,
            "ulps": _ulps,
            "plain": _plain_value,
        },
        report=report,
        judgement=judgement,
        margin=margin,
        verdict=_verdict(report),
        target=_target_sentence(judgement),
        languages=_groups(judgement, "languages"),
        slices=_groups(judgement, "slices"),
        cells=_cells(report["before"], report["after"]),
        measures=MEASURES,
        sweep=sweep,
        languages_svg=languages_chart(judgement) if judgement else "",
        sweep_svg=sweep_chart(sweep, report["rate"], margin),
        looks_svg=looks_chart(report["looks"], report["steps"], margin),
        settings=report.get("settings") or {},
    )


def _verdict(report: Mapping[str, Any]) -> _Verdict:
    """Never good unless every language that was asked about could be judged and is kept."""
    judgement = report["judgement"]
    if report["unguarded"] or not judgement:
        return _Verdict("unsure", "No language was guarded: nothing is known of what this encoder does to them")
    states: dict[str, list[str]] = {}
    for group in [*judgement["languages"].values(), *judgement["slices"].values()]:
        name = group["language"] if group["level"] == "all" else f"{group['language']}/{group['level']}"
        states.setdefault(group["state"], []).append(name)
    languages = {name: group["state"] for name, group in judgement["languages"].items()}
    judged = [name for name, state in languages.items() if state in ("kept", "fell", "unclear")]
    if not judged:
        return _Verdict("unsure", "Nothing can be said: no language has enough queries that the base answers")
    if states.get("fell"):
        return _Verdict("bad", f"Not kept: {some(states['fell'])}")
    if states.get("unclear"):
        return _Verdict("unsure", f"Not surely kept: {some(states['unclear'])}")
    out = [name for name in languages if name not in judged]
    if out:
        return _Verdict(
            "unsure", f"{len(judged)} of {len(languages)} languages are kept; of {some(out)} nothing can be said"
        )
    return _Verdict("good", f"All {len(judged)} languages are kept" if len(judged) > 1 else f"{judged[0]} is kept")


def _target_sentence(judgement: Mapping[str, Any] | None) -> str:
    """What the tuned task gained, and whether that is more than chance."""
    change = judgement.get("target_change") if judgement else None
    if not judgement or change is None:
        return "The tuned task was not measured: there were no dev queries."
    before = judgement["target_before"]
    low, high = judgement.get("target_low"), judgement.get("target_high")
    text = f"The tuned task: MRR@10 from {score(before)} to {score(before + change)}, {points(change)} points"
    if low is None or high is None:
        return f"{text}."
    text += f" (95 % interval {points(low)} to {points(high)})"
    if low > 0:
        return f"{text}: a gain beyond chance."
    return f"{text}: a loss beyond chance." if high < 0 else f"{text}: no more than chance may give."


def _groups(judgement: Mapping[str, Any] | None, which: str) -> list[dict[str, Any]]:
    """The "languages" or "slices" of a judgement, each with the row of every measure."""
    if not judgement:
        return []
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for row in judgement["rows"]:
        rows.setdefault((row["language"], row["level"]), {})[row["measure"]] = row
    return [
        {"group": group, "measures": rows[group["language"], group["level"]]}
        for group in judgement[which].values()
        if (group["language"], group["level"]) in rows
    ]


def _cells(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every set, language, kind and level: before and after of each measure, in the order of the looks."""
    new = {_cell(row): row for row in after}
    return [
        {
            "set": row["set"],
            "language": row["language"],
            "kind": _KINDS.get(row["kind"], row["kind"]),
            "level": row["level"],
            "queries": row["queries"],
            "measures": {
                name: {"before": row[name], "after": new[_cell(row)][name], "change": new[_cell(row)][name] - row[name]}
                for name in MEASURES
            },
        }
        for row in before
        if _cell(row) in new
    ]


def _cell(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["set"], row["language"], row["kind"], row["level"]


def _percent(share: float) -> str:
    """0.8312 -> `83.1 %`; never 100 % unless it is all."""
    text = f"{share:.1%}"
    if text == "100.0%" and share < 1:
        text = "99.9%"
    return text.replace("%", " %")


def _ulps(value: float) -> str:
    """12345.0 -> `12,345`."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}".removesuffix(".0")


def _plain_value(value: Any) -> str:
    """A setting as a reader writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain_value(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain_value, value)) or "–"
    return value if isinstance(value, str) else json.dumps(value)
