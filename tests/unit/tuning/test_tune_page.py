"""The page of a tuning: complete, well formed, offline, and honest about what is not guarded."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from retort.tuning.charts import languages_chart, looks_chart, sweep_chart
from retort.tuning.page import render_page

from .looked import synthetic_report

VOID = {"meta", "br", "hr", "img", "link", "input"}
LARGE = {"de": 700, "en-us": 700, "ja": 700}


class Reader(HTMLParser):
    """Checks that every element that opens closes; collects ids, addresses and what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def title(page: str) -> tuple[str, str]:
    """(mood, sentence) of the verdict."""
    found = re.search(r'<section class="verdict (\w+)">\s*<h2>(.*?)</h2>', page)
    assert found
    return found[1], html.unescape(found[2])


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return synthetic_report()


@pytest.fixture(scope="module")
def page(report: dict[str, Any]) -> str:
    return render_page(report)


def test_the_page_is_well_formed_and_asks_nothing_of_the_network(page: str) -> None:
    reader = read(page)
    assert len(reader.ids) == len(set(reader.ids)), "two drawings share an id"
    assert all(address.startswith("#") for address in reader.addresses)
    assert not re.search(r"@import|url\((?!#)|<script", page)
    assert "<office-help.dev>" in reader.text, "data is text and never markup"


def test_the_page_shows_all_there_is(page: str, report: dict[str, Any]) -> None:
    text = " ".join(read(page).text.split())
    for part in (
        report["judgement"]["summary"],
        "The tuned task: MRR@10 from",
        "a gain beyond chance",
        "83.1 % of 10,646,784 trained weights",
        "encoder.layer.*.output.dense.weight",
        "1.6e-6",
        "damaging",
        "not surely safe",
        "All 20 files of embeddings/office-help (5f4e3d2c1b0a) were hashed before and after",
        "ab" * 32,
        "within folder",
        "across languages",
        "Recall@10",
        "levels module, folder",
        "1.5 may be lost",
    ):
        assert part in text, part
    assert text.count("kept") > 20


def test_a_page_of_which_every_language_is_kept_says_so() -> None:
    assert title(render_page(synthetic_report(0.005, sizes=LARGE))) == ("good", "All 3 languages are kept")


def test_unguarded_languages_stand_in_the_title_and_it_is_no_plain_success(page: str) -> None:
    mood, sentence = title(page)
    assert mood == "unsure"
    assert sentence == "19 of 20 languages are kept; of hi nothing can be said"


def test_a_language_that_fell_stands_in_the_title() -> None:
    assert title(render_page(synthetic_report(0.0, {"ja": -0.05}, sizes=LARGE))) == ("bad", "Not kept: ja, ja/folder")


def test_a_run_without_a_guard_is_no_success() -> None:
    page = render_page(synthetic_report(unguarded=True))
    read(page)
    assert title(page)[0] == "unsure"
    assert title(page)[1].startswith("No language was guarded")
    assert "was not measured" in page


def test_a_guard_of_which_nothing_can_be_judged_is_no_success() -> None:
    mood, sentence = title(render_page(synthetic_report(sizes={"hi": 40, "th": 30})))
    assert mood == "unsure"
    assert sentence.startswith("Nothing can be said")


def test_weights_that_did_not_move_and_vectors_that_did_are_pointed_out(report: dict[str, Any]) -> None:
    page = render_page(
        report
        | {"movement": report["movement"] | {"moved": 0.02}, "vectors": report["vectors"] | {"digest_after": "cd" * 32}}
    )
    assert "Less than half" in page
    assert "The digests differ" in page


def test_charts_are_svg_in_the_colours_of_the_page(report: dict[str, Any]) -> None:
    judgement = report["judgement"]
    drawn = [
        languages_chart(judgement),
        sweep_chart(report["sweep"], report["rate"], 0.015),
        looks_chart(report["looks"], 800, 0.015),
    ]
    for svg in drawn:
        ElementTree.fromstring(svg)  # well-formed XML
        assert "#0102" not in svg, "a stand-in colour was left"
        assert 'role="img"' in svg
    assert "1.6e-6: +1.4 points, worst −1.1, safe" in html.unescape(drawn[1])
    assert drawn[0] == languages_chart(judgement)
    assert sweep_chart(report["sweep"][:1], 1e-7, 0.015) == ""
    diverged = dict.fromkeys(report["sweep"][0], None) | {"rate": 1e-3, "damaging": True, "safe": False}
    assert "1e-3" not in sweep_chart([*report["sweep"], diverged], 1e-7, 0.015), (
        "a run that diverged has no place on the axes"
    )


def test_a_report_read_back_from_its_file_gives_the_same_page(report: dict[str, Any], page: str) -> None:
    assert render_page(json.loads(json.dumps(report, allow_nan=False))) == page
