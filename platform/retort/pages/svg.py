"""Charts as inline SVG: they follow the page's light or dark colours and need nothing from outside.

matplotlib draws with stand-in colours that `svg` turns into CSS variables of the page: `--ink`, `--muted` and `--line` of style.css,
and those that a room's template defines.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["figure", "heading", "plain", "stand_ins", "svg"]


def stand_ins(*names: str) -> dict[str, str]:
    """A colour for matplotlib for each CSS variable: "ink", "muted" and "line", then `names`."""
    return {
        name: f"#0102{number:02x}" for number, name in enumerate(dict.fromkeys(("ink", "muted", "line", *names)), 3)
    }


_COMMON = stand_ins()


def figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    # The object interface: pyplot would keep global state and look for a display.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def heading(axes: Axes, text: str) -> None:
    """A quiet title at the left."""
    axes.set_title(text, loc="left", color=_COMMON["muted"], fontsize=10)


def plain(axes: Axes, grid: str = "x") -> None:
    """No box, quiet ticks and a light grid across the axis named ("x", "y" or "both")."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.grid(axis=grid, color=_COMMON["line"], linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelsize=10, labelcolor=_COMMON["muted"])
    if grid == "x":
        axes.tick_params(axis="y", labelsize=10.5, labelcolor=_COMMON["ink"])


def svg(drawing: Figure, label: str, colours: Mapping[str, str]) -> str:
    """The drawing as an <svg> element; `label` is read to those who do not see it, `colours` are those of `stand_ins`."""
    import matplotlib

    buffer = io.StringIO()
    # Text stays text: it takes the page's font, can be searched and copied. A fixed salt makes the bytes repeatable.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "retort"}):
        drawing.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _themed(buffer.getvalue(), label, colours)


def _themed(drawn: str, label: str, colours: Mapping[str, str]) -> str:
    """The <svg> element alone, with CSS variables for colours, the page's font, and a width that fits."""
    body = drawn[drawn.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    for name, colour in {**_COMMON, **colours}.items():
        body = body.replace(colour, f"var(--{name})")
    body = re.sub(r"font: ([^;\"]*?)(\d+(?:\.\d+)?px) [^;\"]*", r"font: \1\2 var(--font)", body)
    body = re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"|(<svg [^>]*?)height="[^"]*"', r"\1\2", body, count=1)
    body = re.sub(r'\swidth="[\d.]+pt"', "", body, count=1)
    text = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    # matplotlib numbers ids within one drawing; two drawings on a page must not share them. A checksum of the label:
    # Python's own hash differs between processes.
    salt = f"{zlib.crc32(label.encode()):x}"
    body = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{salt}-", body)
    return body.replace("<svg ", f'<svg role="img" aria-label="{text}" ', 1)
