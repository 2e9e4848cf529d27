"""The page and the terminal table of a synthetic report."""

from __future__ import annotations

import copy
import html
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from retort.evaluation.charts import quality_chart, slices_chart
from retort.evaluation.page import render_page
from retort.evaluation.tables import example_lines, report_table

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Reader(HTMLParser):
    """Checks that every element that opens closes, and collects ids and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self._look(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._look(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def _look(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "action"):
                self.addresses.append(value or "")


def printed(things: list[Any], width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    for thing in things:
        console.print(thing)
    return console.export_text()


@pytest.fixture(scope="module")
def page(report: dict[str, Any]) -> str:
    return render_page(report)


def test_the_page_is_well_formed_and_asks_nothing_of_the_network(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids)), "two drawings share an id"
    assert all(address.startswith("#") for address in reader.addresses)
    assert not re.search(r"@import|url\((?!#)|<script", page)


def test_the_page_shows_systems_verdict_relevance_and_slices(page: str, report: dict[str, Any]) -> None:
    for text in (
        "Serve the student",
        "Base encoder",
        "Teacher re-ranking",
        html.escape(report["verdict"]["why"]),
        "Passage length",
        "51.3 MB",
        "Queries made from titles",
    ):
        assert text in page
    for row in report["systems"]:
        assert f"{row['mrr@10']:.3f}" in page


def test_texts_from_data_are_escaped(page: str) -> None:
    assert "&lt;b&gt;status" in page
    assert "<b>status" not in page
    assert "<fun>" not in page


def test_a_student_that_is_not_better_is_announced_as_not_served(make_report: Callable[..., dict[str, Any]]) -> None:
    report = make_report(200, {"bm25": 2.0, "base": 4.0, "student": 2.5})
    assert report["verdict"]["serve"] == "base"
    page = render_page(report)
    assert "Keep the base encoder" in page
    assert "Serve the student" not in page
    lines = printed([report_table(report)], 120).splitlines()
    assert any("Base encoder (served)" in line for line in lines)
    assert not any("Student (served)" in line for line in lines)


def test_a_report_of_bm25_alone_has_a_page_too(
    make_report: Callable[..., dict[str, Any]], report: dict[str, Any]
) -> None:
    alone = copy.deepcopy(report)
    alone["systems"] = alone["systems"][:1]
    alone |= {"verdict": None, "differences": [], "slices": [], "examples": [], "inputs": {}}
    page = render_page(alone)
    assert "BM25" in page
    assert "Where it helps" not in page


def test_the_report_is_json_without_nan(report: dict[str, Any]) -> None:
    assert json.loads(json.dumps(report, allow_nan=False))["systems"][0].keys() == {
        "name", "mrr@10", "ndcg@10", "recall@100", "ms_per_query", "index_bytes",
    }  # fmt: skip


def test_charts_are_svg_in_the_colours_of_the_page(report: dict[str, Any]) -> None:
    for svg in (quality_chart(report), slices_chart(report["slices"])):
        ElementTree.fromstring(svg)  # well-formed XML
        assert "#0102" not in svg, "a stand-in colour was left"
        assert "var(--ink)" in svg
        assert 'role="img"' in svg
    assert quality_chart(report) == quality_chart(report)
    assert slices_chart([]) == ""


def test_the_table_and_the_example_lines_fit_a_terminal(report: dict[str, Any]) -> None:
    text = printed([report_table(report), *example_lines(report)], 100)
    for part in ("Student (served)", "MRR@10", "820", "made from titles", "Query: how do I list packages that need <q"):
        assert part in text
    assert "<b>status</b>" in text  # square or angle brackets in data are text, never markup
