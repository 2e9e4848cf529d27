"""report.html: the whole report as one file that opens offline, for the person who decides what to serve."""

from __future__ import annotations

from typing import Any

from retort.evaluation import wording
from retort.evaluation.charts import quality_chart, slice_title, slices_chart
from retort.pages.rendering import render

TEMPLATE = "templates/page.html.jinja"


def render_page(report: dict[str, Any]) -> str:
    """The page of a report (the value of report.json). Every text from data is escaped."""
    return render(
        "retort.evaluation",
        TEMPLATE,
        {
            "score": wording.score,
            "change": wording.change,
            "p_only": wording.p_only,
            "lower_first": wording.lower_first,
            "milliseconds": wording.milliseconds,
            "size": wording.size,
            "system": wording.system_title,
            "measure": wording.measure_title,
            "slice_title": slice_title,
        },
        report=report,
        verdict=report["verdict"],
        quality_svg=quality_chart(report),
        slices_svg=slices_chart(report["slices"]),
        systems_shown=[row["name"] for row in report["systems"]],
    )
