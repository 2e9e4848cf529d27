"""The charts of a tuning's page as inline SVG: languages, the sweep over rates, and the looks along the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from retort.pages.svg import figure, heading, plain, stand_ins, svg
from retort.tuning.wording import points, rate_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["languages_chart", "looks_chart", "sweep_chart"]

_COLOURS: Final = stand_ins("better", "worse", "unsure", "target")
_BY_STATE: Final = {"kept": "better", "fell": "worse", "unclear": "unsure"}
_ROW_INCHES: Final = 0.27


def languages_chart(judgement: Mapping[str, Any]) -> str:
    """Change of MRR@10 of each judged language with its bounds, beside the margin; SVG, or "" where none is judged."""
    rows = [group for group in judgement["languages"].values() if group["low"] is not None]
    if not rows:
        return ""
    rows = sorted(rows, key=lambda group: -group["change"])
    drawing = figure(9.2, 0.9 + _ROW_INCHES * len(rows))
    axes = drawing.subplots()
    for place, group in enumerate(rows):
        colour = _COLOURS[_BY_STATE[group["state"]]]
        axes.plot(
            [100 * group["low"], 100 * group["high"]],
            [place, place],
            color=colour,
            linewidth=2.2,
            solid_capstyle="butt",
        )
        axes.plot([100 * group["change"]], [place], "o", color=colour, markersize=6)
    _margin(axes, judgement["margin"], vertical=True)
    axes.axvline(0, color=_COLOURS["ink"], linewidth=1, zorder=1)
    axes.set_yticks(range(len(rows)), [group["language"] for group in rows])
    axes.set_ylim(len(rows) + 0.1, -0.6)  # room for the margin's name
    heading(axes, "Change of MRR@10 in points, with bounds that hold for all languages and looks at once")
    plain(axes)
    label = "; ".join(f"{group['language']}: {points(group['change'])}, {group['state']}" for group in rows)
    return svg(drawing, f"Change of MRR@10 in points by language. {label}", _COLOURS)


def sweep_chart(rows: Sequence[Mapping[str, Any]], chosen: float, margin: float) -> str:
    """Gain of the tuned task against the worst language's lower bound, one mark per rate; SVG, or "" with fewer than two marks."""
    shown = [row for row in rows if row.get("worst_low") is not None and row.get("target_change") is not None]
    shown = sorted(shown, key=lambda row: float(row["rate"]))
    if len(shown) < 2:
        return ""
    drawing = figure(9.2, 4.4)
    axes = drawing.subplots()
    xs, ys = ([100 * float(row[name]) for row in shown] for name in ("worst_low", "target_change"))
    axes.plot(xs, ys, color=_COLOURS["line"], linewidth=1.6, zorder=1)
    above = True
    for x, y, row in zip(xs, ys, shown, strict=True):
        kind, marker = _kind(row)
        is_chosen = _same(float(row["rate"]), chosen)
        axes.plot(
            [x], [y], marker, color=_COLOURS[kind], markersize=10 if is_chosen else 7.5, markeredgewidth=2.2, zorder=3
        )
        axes.annotate(
            rate_text(float(row["rate"])), (x, y), xytext=(0, 10 if above else -17), textcoords="offset points", ha="center",
            color=_COLOURS["ink"], fontsize=10, fontweight="bold" if is_chosen else "normal", zorder=4,
        )  # fmt: skip
        above = not above  # neighbours on the curve are often close
    _margin(axes, margin, vertical=True)
    axes.axhline(0, color=_COLOURS["muted"], linewidth=0.8)
    axes.margins(x=0.09, y=0.16)
    axes.set_xlabel(
        "worst language or slice: its change is surely not below this, points of MRR@10", color=_COLOURS["muted"]
    )
    heading(axes, "Gain of the tuned task, points of MRR@10")
    plain(axes, "both")
    label = "; ".join(
        f"rate {rate_text(float(row['rate']))}: {points(row['target_change'])} points, worst {points(row['worst_low'])}, {_kind_text(row)}"
        for row in shown
    )
    return svg(drawing, f"Learning rates tried. {label}", _COLOURS)


def looks_chart(looks: Sequence[Mapping[str, Any]], chosen_step: int, margin: float) -> str:
    """Along the run: change of the tuned task, and the worst lower bound; SVG, or "" where the guard never looked."""
    shown = [look for look in looks if look.get("judgement") and look["step"]]
    series = []
    for name, colour, title in (
        ("target_change", "target", "tuned task"),
        ("worst_low", "ink", "worst language, lower bound"),
    ):
        at = [
            (look["step"], 100 * look["judgement"][name]) for look in shown if look["judgement"].get(name) is not None
        ]
        if at:
            series.append((title, _COLOURS[colour], [(0, 0.0), *at]))
    if not series:
        return ""
    drawing = figure(9.2, 3.2)
    axes = drawing.subplots()
    for title, colour, at in series:
        steps, values = zip(*at, strict=True)
        axes.plot(steps, values, "o-", color=colour, linewidth=2, markersize=5, label=title)
    axes.axvline(chosen_step, color=_COLOURS["muted"], linewidth=1, linestyle=(0, (2, 3)))
    axes.annotate(
        "published", (chosen_step, 1), xycoords=("data", "axes fraction"), xytext=(-5, -4), textcoords="offset points", ha="right", va="top",
        color=_COLOURS["muted"], fontsize=9.5,
    )  # fmt: skip
    _margin(axes, margin, vertical=False)
    axes.set_xlabel("step", color=_COLOURS["muted"])
    axes.margins(y=0.14)
    heading(axes, "Change of MRR@10 in points")
    plain(axes, "y")
    legend = axes.legend(frameon=False, fontsize=10, loc="lower left", ncols=2, bbox_to_anchor=(-0.01, -0.42))
    for text in legend.get_texts():
        text.set_color(_COLOURS["ink"])
    return svg(drawing, "Change of the tuned task and of the worst language at each look of the run", _COLOURS)


def _margin(axes: Axes, margin: float, *, vertical: bool) -> None:
    """The line below which a lower bound may not lie."""
    style: dict[str, Any] = {"color": _COLOURS["worse"], "linewidth": 1.2, "linestyle": (0, (4, 3))}
    text: dict[str, Any] = {"textcoords": "offset points", "color": _COLOURS["worse"], "fontsize": 9.5}
    if vertical:
        axes.axvline(-100 * margin, **style)
        axes.annotate("margin", (-100 * margin, 0), xycoords=("data", "axes fraction"), xytext=(4, 4), **text)
    else:
        axes.axhline(-100 * margin, **style)
        axes.annotate("margin", (0, -100 * margin), xycoords=("axes fraction", "data"), xytext=(4, 4), **text)


def _kind(row: Mapping[str, Any]) -> tuple[str, str]:
    """(colour, marker) of a trial."""
    if row.get("damaging"):
        return "worse", "x"
    return ("better", "o") if row.get("safe") else ("unsure", "D")


def _kind_text(row: Mapping[str, Any]) -> str:
    return "damaging" if row.get("damaging") else "safe" if row.get("safe") else "not surely safe"


def _same(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-9 * max(abs(a), abs(b))
