"""One docstring -> its summary line and the prose of its body.

    read_docstring(text, ...) -> Docstring | None   None when there is nothing worth retrieving

Code goes (doctests, fenced and indented code blocks, tables, mathematics), and so do the sections that are lists of
references. Parameter lists stay: they say what a function works on. Markup of reStructuredText, NumPy and Google style
is taken off, the words are kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SIGNATURE = re.compile(r"^[\w.]+\(.*\)(\s*(->|→).*)?$")
_TRIVIAL = re.compile(
    r"^(see |initiali[sz]e (self|the |an? )|constructor|deprecated|alias |todo|same as |internal |return self|"
    r"this (class|function|method|module|is) |copied from|docstring|implements? |override|base class|not implemented|\W)",
    re.IGNORECASE,
)
_DROPPED_SECTIONS = {
    "see also", "references", "reference", "example", "examples", "doctest", "usage", "yields example", "authors", "todo",
}  # fmt: skip
_CODE_DIRECTIVES = re.compile(
    r"^\.\. (code|code-block|sourcecode|math|plot|testcode|testoutput|testsetup|doctest|ipython|figure|image|table|csv-table|"
    r"list-table|autosummary|toctree|versionadded|versionchanged|deprecated|seealso|warning|index|only|include|minigallery)\b"
)
_DIRECTIVE = re.compile(r"^\.\. +[\w-]+:: *")
_UNDERLINE = re.compile(r"^([-=~^\"*#+`])\1{2,}$")
_ROLE = re.compile(r":[\w:+-]+:`~?!?([^`<]*?)(?:\s*<[^`>]*>)?`")
_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}")
_FOOTNOTE = re.compile(r"\s*\[[\w*]+\]_")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[A-Z`*(\"'])")


@dataclass(frozen=True)
class Docstring:
    """A docstring in two parts that have no sentence in common."""

    summary: str
    body: str


def read_docstring(text: str, *, max_words: int, min_words: int) -> Docstring | None:
    """The summary (3 to 30 words) and the body (`min_words` to about `max_words` words), or None if either is not there.

    The body ends at a sentence or line end where one lies in its last third. None also when the body says the summary again.
    """
    paragraphs = re.split(r"\n[ \t]*\n", text.strip(), maxsplit=1)
    if len(paragraphs) == 2 and _SIGNATURE.match(" ".join(paragraphs[0].split())):
        paragraphs = re.split(r"\n[ \t]*\n", paragraphs[1].strip(), maxsplit=1)
    head, _, rest_of_head = _plain(" ".join(paragraphs[0].split())).partition(" ")
    sentences = _SENTENCE_END.split(f"{head} {rest_of_head}".strip(), maxsplit=1)
    summary = sentences[0].strip()
    if not is_query(summary):
        return None
    lines = sentences[1:] + body_lines(paragraphs[1] if len(paragraphs) == 2 else "")
    body = cut(lines, max_words)
    if len(re.findall(r"[^\W\d_]{2,}", body)) < min_words or _words(summary) in _words(body):
        return None
    return Docstring(summary.rstrip(". "), body)


def is_query(summary: str) -> bool:
    """Whether a summary line can be searched for: 3 to 30 words, a sentence rather than a note or a piece of code."""
    words = summary.split()
    letters = sum(character.isalpha() or character.isspace() for character in summary)
    return (
        3 <= len(words) <= 30 and letters >= 0.75 * len(summary) and not _TRIVIAL.match(summary) and "{" not in summary
    )


def body_lines(text: str) -> list[str]:
    """The prose lines of a docstring body, without code, mathematics, underlines and the sections in which nobody searches."""
    kept: list[str] = []
    lines = text.expandtabs(4).splitlines()
    section_dropped = False
    block_indent: int | None = None  # inside an indented block that is dropped: its opener's indent
    in_doctest = in_fence = False
    for number, raw in enumerate(lines):
        line = raw.strip()
        indent = len(raw) - len(raw.lstrip())
        if line.startswith("```"):
            in_fence = not in_fence
            continue
        if not line:
            in_doctest = False
            continue
        if block_indent is not None and indent > block_indent:
            continue
        block_indent = None
        underlined = number + 1 < len(lines) and bool(_UNDERLINE.match(lines[number + 1].strip()))
        if underlined or re.match(r"^[A-Z][\w ]{2,24}:{1,2}$", line):
            section_dropped = line.rstrip(":").casefold() in _DROPPED_SECTIONS
            if not underlined and section_dropped and indent > 0:
                block_indent, section_dropped = indent, False
        if line.startswith((">>>", "...", "$ ", "In [")):
            in_doctest = True
        if _CODE_DIRECTIVES.match(line):
            block_indent = indent
            continue
        if section_dropped or in_doctest or in_fence or _UNDERLINE.match(line) or re.match(r"^[+|=]|^\.\. \[", line):
            continue
        if line.endswith("::") and not _DIRECTIVE.match(line):
            block_indent = indent
        plain = _plain(_DIRECTIVE.sub("", line))
        if plain:
            kept.append(plain)
    return kept


def cut(lines: list[str], max_words: int) -> str:
    """The lines joined, up to `max_words` words: whole lines, or whole sentences, where that keeps two thirds of them."""
    words = " ".join(lines).split()
    if len(words) <= max_words:
        return " ".join(words)
    head = " ".join(words[:max_words])
    ends = [match.start() for match in _SENTENCE_END.finditer(head)]
    return head[: ends[-1]] if ends and ends[-1] >= 2 * len(head) // 3 else head


def _plain(line: str) -> str:
    line = _LINK.sub(r"\1", _ROLE.sub(r"\1", _FOOTNOTE.sub("", line)))
    line = line.replace("``", "").replace("`", "").replace("**", "").replace("\\", "")
    return " ".join(re.sub(r"^[-*•]\s+", "", line).replace("::", ":").split())


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
