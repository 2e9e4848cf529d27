"""The charts of audit.html as inline SVG; the teachers' colours are CSS variables of templates/audit.html.jinja."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from retort.pages.svg import figure, heading, plain, stand_ins, svg
from retort.teaching.audit_wording import slice_title

__all__ = ["agreement_chart", "calibration_chart", "score_chart", "slices_chart", "teacher_colour"]

TEACHER_COLOURS: Final = ("one", "two", "three", "four", "five", "six")
_COLOURS: Final = stand_ins(*TEACHER_COLOURS)
_LABEL_CHARACTERS: Final = 30


def teacher_colour(number: int) -> str:
    """The CSS variable of the teacher with this number; they come round again after six."""
    return TEACHER_COLOURS[number % len(TEACHER_COLOURS)]


def agreement_chart(teachers: Sequence[Mapping[str, Any]]) -> str:
    """Pair accuracy of each teacher on unseen (filled) and seen (hollow) queries with 95 % intervals; SVG."""
    drawing = figure(9.2, 0.8 + 0.62 * len(teachers))
    axes = drawing.subplots()
    lowest = 0.5
    for place, entry in enumerate(teachers):
        colour = _COLOURS[teacher_colour(place)]
        for group, offset, face in (("unseen", -0.14, colour), ("seen", 0.14, "none")):
            interval = entry[group] and entry[group]["pair_accuracy"]
            if not interval:
                continue
            where = place + offset
            lowest = min(lowest, interval["low"])
            axes.plot(
                [interval["low"], interval["high"]], [where, where], color=colour, linewidth=2.2, solid_capstyle="butt"
            )
            axes.plot(
                [interval["mean"]],
                [where],
                "o",
                color=colour,
                markerfacecolor=face,
                markersize=7.5,
                markeredgewidth=1.8,
            )
            note = f"{group} {interval['mean']:.3f}"
            axes.annotate(
                note, (interval["high"], where), xytext=(7, 0), textcoords="offset points", va="center", color=_COLOURS["ink"], fontsize=9.5
            )  # fmt: skip
    axes.set_yticks(range(len(teachers)), [_short(entry["name"]) for entry in teachers])
    axes.set_ylim(len(teachers) - 0.5, -0.5)
    axes.set_xlim(max(0.0, lowest - 0.03), 1.0 + (1.0 - lowest) * 0.3)
    axes.set_xticks([tick / 10 for tick in range(11) if tick / 10 >= lowest - 0.03])
    axes.axvline(0.5, color=_COLOURS["muted"], linewidth=1, linestyle=(0, (3, 3)))
    heading(axes, "Pairs (relevant, other) ordered rightly; 0.5 is a coin")
    plain(axes, "x")
    label = "; ".join(f"{entry['name']}: {_told(entry)}" for entry in teachers)
    return svg(drawing, f"Pair accuracy on unseen and seen queries. {label}", _COLOURS)


def calibration_chart(teachers: Sequence[Mapping[str, Any]]) -> str:
    """Reliability diagrams: what the logits say against what the labels say, raw and after shift and scale; SVG."""
    drawing = figure(9.2, 4.0)
    for axes, kind, title in zip(
        drawing.subplots(1, 2), ("raw", "fitted"), ("As it is", "After the best shift and scale"), strict=True
    ):
        curves = [(number, entry["calibration"][kind]) for number, entry in enumerate(teachers)]
        # Few candidates are relevant, so that all of it may lie in a corner: as far as there is something to see.
        values = [row[name] for _, curve in curves if curve for row in curve["bins"] for name in ("said", "found")]
        end = min(1.0, 1.1 * max([*values, 0.2]))
        axes.plot([0, end], [0, end], color=_COLOURS["muted"], linewidth=1, linestyle=(0, (3, 3)))
        for number, curve in curves:
            if curve is not None and curve["bins"]:
                said, found = ([row[name] for row in curve["bins"]] for name in ("said", "found"))
                axes.plot(said, found, "o-", color=_COLOURS[teacher_colour(number)], linewidth=1.8, markersize=5.5)
        axes.set_xlim(-0.02 * end, 1.02 * end)
        axes.set_ylim(-0.02 * end, 1.02 * end)
        axes.set_xlabel("sigmoid(logit)" if kind == "raw" else "probability", color=_COLOURS["muted"], fontsize=9.5)
        heading(axes, title)
        plain(axes, "both")
    drawing.axes[0].set_ylabel("share labelled relevant", color=_COLOURS["muted"], fontsize=9.5)
    return svg(drawing, "Calibration of each teacher; the table has the errors", _COLOURS)


def score_chart(teachers: Sequence[Mapping[str, Any]]) -> str:
    """Mean logit of relevant and other passages by passage length, a panel per teacher (the first three); SVG, or "" without any."""
    shown = [(number, entry) for number, entry in enumerate(teachers) if _by(entry, "length")][:3]
    if not shown:
        return ""
    drawing = figure(9.2, 3.3)
    panels = drawing.subplots(1, len(shown), squeeze=False)[0]
    for axes, (number, entry) in zip(panels, shown, strict=True):
        rows = _by(entry, "length")
        colour = _COLOURS[teacher_colour(number)]
        for kind, style, face in (("relevant", "o-", colour), ("other", "o--", "none")):
            points = [(place, row[kind]) for place, row in enumerate(rows) if row[kind] is not None]
            if points:
                places, values = zip(*points, strict=True)
                axes.plot(places, values, style, color=colour, markerfacecolor=face, linewidth=1.8, markersize=6)
                axes.annotate(
                    kind, (places[-1], values[-1]), xytext=(0, 7), textcoords="offset points", ha="right", color=_COLOURS["ink"], fontsize=9
                )  # fmt: skip
        axes.set_xticks(range(len(rows)), [_words_short(row["label"]) for row in rows])
        axes.margins(y=0.22)
        heading(axes, _short(entry["name"]) if len(teachers) > 1 else "Mean logit by words of the passage")
        plain(axes, "y")
        axes.tick_params(axis="x", labelsize=9)
    return svg(drawing, "Mean logit by passage length; the table below has the numbers", _COLOURS)


def slices_chart(teachers: Sequence[Mapping[str, Any]]) -> str:
    """Unseen pair accuracy per slice with 95 % intervals, grouped by property, one colour per teacher; SVG, or "" without any."""
    keys: dict[tuple[str, str], int] = {}
    for entry in teachers:
        for row in entry["slices"]:
            if row["accuracy"] is not None:
                keys[row["by"], row["label"]] = max(row["accuracy"]["queries"], keys.get((row["by"], row["label"]), 0))
    if not keys:
        return ""
    order = ("length", "language", "section", "position")
    names = sorted(keys, key=lambda key: order.index(key[0]))  # stable: labels keep their order
    places: dict[tuple[str, str], float] = {}
    headings: list[tuple[float, str]] = []
    place = 0.0
    for number, key in enumerate(names):
        if number == 0 or names[number - 1][0] != key[0]:
            place += 0.35 if number else 0.0
            headings.append((place, slice_title(key[0])))
            place += 0.9
        places[key] = place
        place += 1.0
    drawing = figure(9.2, 0.9 + 0.29 * place)
    axes = drawing.subplots()
    step = 0.56 / max(1, len(teachers))
    for number, entry in enumerate(teachers):
        colour = _COLOURS[teacher_colour(number)]
        shift = (number - (len(teachers) - 1) / 2) * step
        for row in entry["slices"]:
            interval = row["accuracy"]
            if interval is None:
                continue
            where = places[row["by"], row["label"]] + shift
            axes.plot(
                [interval["low"], interval["high"]], [where, where], color=colour, linewidth=2, solid_capstyle="butt"
            )
            axes.plot([interval["mean"]], [where], "o", color=colour, markersize=5.5)
        if entry["unseen"]["pair_accuracy"]:
            axes.axvline(entry["unseen"]["pair_accuracy"]["mean"], color=colour, linewidth=1, linestyle=(0, (3, 3)))
    axes.set_yticks(list(places.values()), [f"{_short(label)}  ({keys[by, label]:,})" for by, label in places])
    for where, title in headings:
        axes.annotate(
            title, (0, where), xycoords=("axes fraction", "data"), xytext=(-8, 0), textcoords="offset points",
            ha="right", va="center", color=_COLOURS["ink"], fontweight="bold",
        )  # fmt: skip
    axes.set_ylim(place - 0.4, -0.6)
    heading(axes, "Unseen pair accuracy; dashed: the whole")
    plain(axes, "x")
    return svg(drawing, f"Pair accuracy in {len(names)} slices; the table below has the numbers", _COLOURS)


def _by(entry: Mapping[str, Any], by: str) -> list[Mapping[str, Any]]:
    return [row for row in entry["slices"] if row["by"] == by]


def _words_short(label: str) -> str:
    """`up to 28 words` -> `to 28`, `29 to 35 words` -> `29–35`."""
    short = label.removesuffix(" words")
    return short.removeprefix("up ") if short.startswith("up ") else short.replace(" to ", "–")


def _told(entry: Mapping[str, Any]) -> str:
    groups = {name: entry[name] and entry[name]["pair_accuracy"] for name in ("unseen", "seen")}
    return ", ".join(f"{name} {interval['mean']:.3f}" for name, interval in groups.items() if interval)


def _short(text: str) -> str:
    return text if len(text) <= _LABEL_CHARACTERS else text[: _LABEL_CHARACTERS - 1] + "…"
