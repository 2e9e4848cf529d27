"""The charts of report.html as inline SVG: they follow the page's light or dark colours and need nothing from outside.

matplotlib draws with stand-in colours that `_themed` turns into CSS variables of the page (templates/page.html.jinja
defines them).
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from retort.evaluation import wording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS: Final = {
    "ink": "#010203",
    "muted": "#010204",
    "line": "#010205",
    "bm25": "#010206",
    "base": "#010207",
    "student": "#010208",
    "teacher": "#010209",
    "better": "#01020a",
    "worse": "#01020b",
}
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
    figure = _figure(9.2, 0.75 + 0.5 * len(rows))
    quality, cost = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
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
    _heading(quality, f"{wording.measure_title(measure)}, higher is better")
    times = [row["ms_per_query"] for row in rows]
    cost.set_xscale("log")
    cost.set_xlim(min(times) / 3, max(times) * 8)
    cost.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    _heading(cost, "ms per query, lower is better (log scale)")
    for axes in (quality, cost):
        _plain(axes)
    label = "; ".join(
        f"{wording.system_title(row['name'])}: {wording.score(row[measure])} at {wording.milliseconds(row['ms_per_query'])} ms"
        for row in rows
    )
    return _svg(figure, f"{wording.measure_title(measure)} and cost of each system. {label}")


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
    figure = _figure(9.2, 0.8 + _ROW_INCHES * 0.8 * place)
    axes = figure.subplots()
    for where, row in zip(places, rows, strict=True):
        low, middle, high = (100 * row["difference"][name] for name in ("low", "mean", "high"))
        colour = _COLOURS["better"] if low > 0 else _COLOURS["worse"] if high < 0 else _COLOURS["muted"]
        axes.plot([low, high], [where, where], color=colour, linewidth=2.2, solid_capstyle="butt")
        axes.plot([middle], [where], "o", color=colour, markersize=6.5)
    axes.axvline(0, color=_COLOURS["ink"], linewidth=1)
    axes.set_yticks(places, labels)
    for where, heading in headings:
        axes.annotate(
            heading, (0, where), xycoords=("axes fraction", "data"), xytext=(-8, 0), textcoords="offset points",
            ha="right", va="center", color=_COLOURS["ink"], fontweight="bold",
        )  # fmt: skip
    axes.set_ylim(place - 0.4, -0.6)
    measure = wording.measure_title(rows[0]["measure"])
    _heading(axes, f"Change of {measure} in points, student against base")
    _plain(axes)
    return _svg(
        figure, f"Change of {measure} from base to student in {len(rows)} slices; the table below has the numbers"
    )


def _figure(width: float, height: float) -> Figure:
    # The object interface: pyplot would keep global state and look for a display.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _heading(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", color=_COLOURS["muted"], fontsize=10)


def _plain(axes: Axes) -> None:
    """No box, quiet ticks and a light vertical grid."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.grid(axis="x", color=_COLOURS["line"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelsize=10, labelcolor=_COLOURS["muted"])
    axes.tick_params(axis="y", labelsize=10.5, labelcolor=_COLOURS["ink"])


def _svg(figure: Figure, label: str) -> str:
    import matplotlib

    buffer = io.StringIO()
    # Text stays text: it takes the page's font, can be searched and copied. A fixed salt makes the bytes repeatable.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "retort"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _themed(buffer.getvalue(), label)


def _themed(svg: str, label: str) -> str:
    """The <svg> element alone, with CSS variables for colours, the page's font, a width that fits, and a label for
    screen readers."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    for name, colour in _COLOURS.items():
        body = body.replace(colour, f"var(--{name})")
    body = re.sub(r"font: ([^;\"]*?)(\d+(?:\.\d+)?px) [^;\"]*", r"font: \1\2 var(--font)", body)
    body = re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"|(<svg [^>]*?)height="[^"]*"', r"\1\2", body, count=1)
    body = re.sub(r'\swidth="[\d.]+pt"', "", body, count=1)
    text = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    # matplotlib numbers ids within one drawing; two drawings on a page must not share them.
    salt = f"{_checksum(label):x}"
    body = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{salt}-", body)
    return body.replace("<svg ", f'<svg role="img" aria-label="{text}" ', 1)


def _checksum(text: str) -> int:
    """A small number that depends on the text alone (Python's own hash differs between processes)."""
    import zlib

    return zlib.crc32(text.encode())
