"""The charts of report.html as inline SVG; the series' colours are CSS variables of templates/page.html.jinja."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from retort.evaluation import wording
from retort.pages.svg import figure, heading, plain, stand_ins, svg

_COLOURS: Final = stand_ins("bm25", "base", "student", "teacher", "better", "worse")
_ROW_INCHES: Final = 0.36
_SLICE_TITLES: Final = {
    "length": "Passage length",
    "section": "Section",
    "lang": "Query language",
    "origin": "Query origin",
}


def slice_title(by: str) -> str:
    """`lang` -> `Query language`."""
    return _SLICE_TITLES.get(by, by)


def quality_chart(report: dict[str, Any], measure: str = "mrr@10") -> str:
    """Bars of quality with 95 % intervals beside bars of milliseconds per query (log scale), one row per system;
    SVG."""
    rows = report["systems"]
    drawing = figure(9.2, 0.75 + 0.5 * len(rows))
    quality, cost = drawing.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    places = range(len(rows))
    highest = max([report["details"][row["name"]]["measures"][measure]["high"] for row in rows] + [0.05])
    for place, row in zip(places, rows, strict=True):
        interval = report["details"][row["name"]]["measures"][measure]
        colour = _COLOURS.get(row["name"], _COLOURS["muted"])
        quality.barh(place, row[measure], height=0.56, color=colour)
        quality.plot(
            [interval["low"], interval["high"]],
            [place, place],
            color=_COLOURS["ink"],
            linewidth=1.4,
            solid_capstyle="butt",
        )
        quality.text(
            interval["high"] + highest * 0.02, place, wording.score(row[measure]), va="center", color=_COLOURS["ink"]
        )
        cost.barh(place, row["ms_per_query"], height=0.56, color=colour, left=0)
        cost.text(
            row["ms_per_query"] * 1.15,
            place,
            f"{wording.milliseconds(row['ms_per_query'])} ms",
            va="center",
            color=_COLOURS["ink"],
        )
    quality.set_yticks(places, [wording.system_title(row["name"]) for row in rows])
    quality.invert_yaxis()
    quality.set_xlim(0, min(highest * 1.2, 1.2))
    heading(quality, f"{wording.measure_title(measure)}, higher is better")
    times = [row["ms_per_query"] for row in rows]
    cost.set_xscale("log")
    cost.set_xlim(min(times) / 3, max(times) * 8)
    cost.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    heading(cost, "ms per query, lower is better (log scale)")
    for axes in (quality, cost):
        plain(axes)
    label = "; ".join(
        f"{wording.system_title(row['name'])}: {wording.score(row[measure])} at {wording.milliseconds(row['ms_per_query'])} ms"
        for row in rows
    )
    return svg(drawing, f"{wording.measure_title(measure)} and cost of each system. {label}", _COLOURS)


def slices_chart(slices: Sequence[dict[str, Any]]) -> str:
    """Student - base per slice with bounds, in points (hundredths) of the measure, grouped by property; SVG, or ""
    without any."""
    rows = [row for row in slices if row["difference"] is not None]
    if not rows:
        return ""
    labels: list[str] = []
    places: list[float] = []
    headings: list[tuple[float, str]] = []
    place = 0.0
    for number, row in enumerate(rows):
        if number == 0 or rows[number - 1]["by"] != row["by"]:
            place += 0.4 if number else 0.0
            headings.append((place, slice_title(row["by"])))
            place += 1.0
        labels.append(f"{wording.snippet(row['label'], 34)}  ({row['queries']:,})")
        places.append(place)
        place += 1.0
    drawing = figure(9.2, 0.8 + _ROW_INCHES * 0.8 * place)
    axes = drawing.subplots()
    for where, row in zip(places, rows, strict=True):
        low, middle, high = (100 * row["difference"][name] for name in ("low", "mean", "high"))
        colour = _COLOURS["better"] if low > 0 else _COLOURS["worse"] if high < 0 else _COLOURS["muted"]
        axes.plot([low, high], [where, where], color=colour, linewidth=2.2, solid_capstyle="butt")
        axes.plot([middle], [where], "o", color=colour, markersize=6.5)
    axes.axvline(0, color=_COLOURS["ink"], linewidth=1)
    axes.set_yticks(places, labels)
    for where, title in headings:
        axes.annotate(
            title, (0, where), xycoords=("axes fraction", "data"), xytext=(-8, 0), textcoords="offset points",
            ha="right", va="center", color=_COLOURS["ink"], fontweight="bold",
        )  # fmt: skip
    axes.set_ylim(place - 0.4, -0.6)
    measure = wording.measure_title(rows[0]["measure"])
    heading(axes, f"Change of {measure} in points, student against base")
    plain(axes)
    return svg(
        drawing,
        f"Change of {measure} from base to student in {len(rows)} slices; the table below has the numbers",
        _COLOURS,
    )
