"""report.html: the whole report as one file that opens offline, for the person who decides what to serve."""

from __future__ import annotations

from importlib import resources
from typing import Any

from retort.evaluation import wording
from retort.evaluation.charts import quality_chart, slice_title, slices_chart

TEMPLATE = "templates/page.html.jinja"


def render_page(report: dict[str, Any]) -> str:
    """The page of a report (the value of report.json). Every text from data is escaped."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        score=wording.score,
        change=wording.change,
        p_only=wording.p_only,
        lower_first=wording.lower_first,
        milliseconds=wording.milliseconds,
        size=wording.size,
        system=wording.system_title,
        measure=wording.measure_title,
        slice_title=slice_title,
    )
    template = environment.from_string(
        resources.files("retort.evaluation").joinpath(TEMPLATE).read_text(encoding="utf-8")
    )
    return template.render(
        report=report,
        verdict=report["verdict"],
        quality_svg=quality_chart(report),
        slices_svg=slices_chart(report["slices"]),
        systems_shown=[row["name"] for row in report["systems"]],
    )
