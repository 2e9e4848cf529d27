"""audit.html: the whole audit as one file that opens offline, for the person who decides whom the student learns from."""

from __future__ import annotations

from typing import Any

from retort.pages.rendering import render
from retort.teaching import audit_wording as wording
from retort.teaching.audit_charts import agreement_chart, calibration_chart, score_chart, slices_chart, teacher_colour

__all__ = ["render_page"]

TEMPLATE = "templates/audit.html.jinja"


def render_page(report: dict[str, Any]) -> str:
    """The page of an audit (the value of audit.json). Every text from data is escaped."""
    teachers = report["teachers"]
    return render(
        "retort.teaching",
        TEMPLATE,
        {
            "figure": wording.figure,
            "change": wording.change,
            "span": wording.span,
            "limit": wording.limit,
            "slice_title": wording.slice_title,
            "colour": teacher_colour,
        },
        report=report,
        teachers=teachers,
        agreement_svg=agreement_chart(teachers),
        calibration_svg=calibration_chart(teachers),
        score_svg=score_chart(teachers),
        slices_svg=slices_chart(teachers),
    )
