from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from retort.corpus.readers.markup import EXTENSIONS, sections


def parts(text: str, extension: str) -> list[tuple[str, str]]:
    return [(section.heading, section.text) for section in sections(text, extension).sections if section.text]


MARKDOWN = """---
title: "The guide"
lang: en
---
Before.

# The guide

A paragraph that was wrapped by its writer at some
column and goes on. See [the link](https://x.y "t").

Setext `heading`
----------------
* item one is long enough to have been wrapped by some
  editor
* item two
<!-- a
comment -->
```python
# not a heading
```
#### Deep
**Bold** end<br>.
"""


def test_markdown():
    page = sections(MARKDOWN, ".md")
    assert (page.title, page.lang) == ("The guide", "en")
    assert parts(MARKDOWN, ".md") == [
        ("", "Before."),
        ("The guide", "A paragraph that was wrapped by its writer at some column and goes on. See the link."),
        (
            "Setext heading",
            "* item one is long enough to have been wrapped by some editor\n* item two\n\n# not a heading\nDeep\nBold end.",
        ),
    ]


def test_rst():
    text = """=====
Title
=====

.. _label:
.. This is a comment

Intro with :ref:`a role <target>` and ``code`` and `link <https://x.y>`_.

Part one
--------

.. note:: Take care with the :option:`--flag` option.

Part *two*
----------
Text.
"""
    page = sections(text, ".rst")
    assert page.title == "Title"
    assert parts(text, ".rst") == [
        ("Title", "Intro with a role and code and link."),
        ("Part one", "Take care with the --flag option."),
        ("Part *two*", "Text."),
    ]


HTML = """<!doctype html><html lang="de"><head><title>Seite - Die
Website</title><style>p{}</style></head><body>
<nav><h1>Menu</h1><a>Home</a></nav><h1>Site</h1><p>Every page says this.</p>
<main><p>Vorspann &amp; mehr</p><h2>Erster <em>Teil</em> <a>¶</a></h2><p>Eins<br>zwei</p><ul><li>a<li>b</ul>
<pre>x = 1
  y</pre><script>alert("</main>")</script><table><tr><th>A<td>1</tr></table><h4>Tief</h4>Ende</main><footer>f</footer></body></html>"""


def test_html_takes_the_main_part_where_it_is_marked():
    page = sections(HTML, ".html")
    assert (page.title, page.lang) == ("Seite", "de")
    found = parts(HTML, ".html")
    assert found[0] == ("", "Vorspann & mehr")
    assert found[1] == ("Erster Teil", "Eins\nzwei\n\na\nb\n\nx = 1\n  y\n\nA 1\n\nTief\nEnde")


def test_html_without_a_main_part_takes_all_but_navigation():
    page = sections("<title>T</title><nav>no</nav><h1>Head</h1><p>text<h2>Next</h2>more", ".htm")
    assert page.title == "Head"
    assert [(section.heading, section.text) for section in page.sections if section.text] == [
        ("Head", "text"),
        ("Next", "more"),
    ]


def test_plain_text_has_a_title_only_where_it_looks_like_one():
    assert sections("A short line\n\nThe text.", ".txt").title == "A short line"
    assert sections("A sentence.\n\nThe text.", ".txt").title == ""
    assert sections("Only one paragraph\nof two lines", ".txt").title == ""


@given(st.text(alphabet="# =-<>/`h1mainpre\n*ab", max_size=80), st.sampled_from(EXTENSIONS))
def test_any_text_is_read_and_headings_are_one_line(text, extension):
    page = sections(text, extension)
    assert all("\n" not in section.heading for section in page.sections) and "\n" not in page.title
