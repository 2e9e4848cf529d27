"""Queries in another language are refused by their lang, and told by their words where they have none."""

from __future__ import annotations

import pytest

from retort.errors import InputError
from retort.tuning.english import check_language

ENGLISH = [
    "How to change the page margins of a document",
    "Creating a table of contents with chapter headings",
    "library for reading and writing compressed archives",
    "list of menus",
]
JAPANESE = ["文書の余白を変更する方法について説明します", "見出しから目次を作成します。"]


def check(texts: list[str], langs: list[str], share: float = 0.02) -> list[str]:
    ids = [f"q{i}" for i in range(len(texts))]
    return check_language(ids, texts, langs, language="en", max_foreign_share=share, what="queries/t")


def test_english_passes_with_and_without_lang() -> None:
    assert check(ENGLISH * 20, [""] * 80) == []
    assert check(ENGLISH, ["en", "en-us", "en_GB", ""]) == []


def test_another_lang_is_an_error_with_ids() -> None:
    with pytest.raises(
        InputError, match=r"queries/t holds 2 queries that are not in 'en' but in de, such as q1, q3.*query_languages"
    ):
        check(ENGLISH, ["en", "de", "en", "de"])


def test_a_few_foreign_rows_are_told_and_kept() -> None:
    (warning,) = check(ENGLISH * 50 + JAPANESE[:1], [""] * 201)
    assert "1 of 201 training queries" in warning and "q200 (ja)" in warning


def test_many_are_refused() -> None:
    with pytest.raises(InputError, match=r"2 of 6 training queries.*q4 \(ja\), q5 \(ja\).*english_only"):
        check(ENGLISH + JAPANESE, [""] * 6)


def test_only_rows_without_a_lang_are_guessed() -> None:
    assert check(ENGLISH + JAPANESE, [""] * 4 + ["en"] * 2) == []
