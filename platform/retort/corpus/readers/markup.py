"""Markup as sections of plain text: Markdown, reStructuredText, HTML, and text without markup.

    sections(text, extension) -> Page    the page's title and language if it says them, and its sections in order

A section is a heading of the first three levels and the text below it, up to the next one. Deeper headings stay in the text as lines.
HTML is read with the standard library's parser; nothing is executed or fetched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

SECTION_LEVELS = 3
MARKDOWN = (".md", ".markdown")
RST = (".rst",)
HTML = (".html", ".htm", ".xhtml")
PLAIN = (".txt", ".text")
EXTENSIONS = (*MARKDOWN, *RST, *HTML, *PLAIN)

_ATX = re.compile(r"^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
_UNDERLINE = re.compile(r"^([=\-`:.'\"~^_*+#<>!$%&(),/;?@\[\\\]{|}])\1{2,}\s*$")
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)\s]*(?:\s+\"[^\"]*\")?\)")
_EMPHASIS = re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1")
_RST_COMMENT = re.compile(
    r"^\s*\.\. (?:_[^:]+:|(?!.*::)\S.*$|(?:index|toctree|contents|image|figure|highlight|raw|include)::)"
)
_RST_ROLE = re.compile(r"(?::[\w:+-]+:)?`([^`]+)`(?:__?)?")
_RST_TARGET = re.compile(r"^(.+?)\s+<[^<>]*>$")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_TAG = re.compile(
    r"</?(?:a|img|br|p|div|span|sub|sup|kbd|details|summary|b|i|em|strong|code|center|table|tr|td|th)\b[^>]*>",
    re.IGNORECASE,
)
_LIST_ITEM = re.compile(r"^\s*(?:[-*+•]|\d+[.)]|#\.)\s")
_NEW_LINE = re.compile(r"^\s*(?:[-*+•]|\d+[.)]|#\.|[|>:]|\.\.)(?:\s|$)|^\s*[|+][-=|+ ]|^\s*:[\w-]+:")
_WRAPPED_FROM = 40
"""Characters of a line that is long enough to have been wrapped."""


@dataclass
class Section:
    """A heading ("" before the first one) and the text below it."""

    heading: str
    level: int
    lines: list[str] = field(default_factory=list)
    _is_open: bool = False

    def add(self, line: str, *, verbatim: bool = False) -> None:
        """Append a line; one that only goes on with the paragraph or list item above (hard-wrapped text) is joined to it."""
        indented = line[:1] in (" ", "\t")
        above = self.lines[-1] if self.lines else ""
        goes_on = self._is_open and len(above) >= _WRAPPED_FROM and line.strip() != "" and not _NEW_LINE.match(line)
        if (
            goes_on
            and not verbatim
            and (not indented or (_LIST_ITEM.match(above) and len(line) - len(line.lstrip()) <= 4))
        ):
            self.lines[-1] = f"{above.rstrip()} {line.strip()}"
            return
        self.lines.append(line)
        self._is_open = not verbatim and line.strip() != "" and (not indented or bool(_LIST_ITEM.match(line)))

    @property
    def text(self) -> str:
        """The lines joined, without blank ones at the ends and never more than one between."""
        return re.sub(r"\n[ \t]*\n\s*\n", "\n\n", "\n".join(self.lines)).strip()


@dataclass
class Page:
    """A text file: `title` and `lang` are "" where the file does not say them."""

    title: str
    sections: list[Section]
    lang: str = ""


def sections(text: str, extension: str) -> Page:
    """Read a file's text by its extension (one of EXTENSIONS)."""
    if extension in HTML:
        parser = _HtmlSections()
        parser.feed(text)
        parser.close()
        return parser.page()
    if extension in PLAIN:
        return _plain(text)
    front, text = _front_matter(text) if extension in MARKDOWN else ({}, text)
    found = _markdown(text) if extension in MARKDOWN else _rst(text)
    first = next((section for section in found if section.heading), None)
    title = front.get("title", "") or (first.heading if first and first.level == 1 else "")
    return Page(title, found, front.get("lang", ""))


def _plain(text: str) -> Page:
    """A short first line with a blank line below it and no full stop is a title."""
    head, blank, rest = text.strip().partition("\n\n")
    is_title = (
        bool(blank)
        and "\n" not in head
        and len(head.split()) <= 15
        and not head.rstrip().endswith((".", "!", "?", ":", ";", ","))
    )
    section = Section(head.strip() if is_title else "", 1)
    for line in (rest if is_title else text).splitlines():
        section.add(line)
    return Page(section.heading, [section])


def _front_matter(text: str) -> tuple[dict[str, str], str]:
    """Title and language from the block between --- lines at the top of a Markdown file, and the text below it."""
    match = _FRONT_MATTER.match(text)
    if match is None:
        return {}, text
    pairs = (line.split(":", 1) for line in match[1].splitlines() if ":" in line and not line.startswith((" ", "\t")))
    return {name.strip().lower(): value.strip().strip("\"'") for name, value in pairs}, text[match.end() :]


def _markdown(text: str) -> list[Section]:
    found = [Section("", 1)]
    fence = ""
    lines = _COMMENT.sub("", text).splitlines()
    for number, line in enumerate(lines):
        opened = _FENCE.match(line)
        if opened and (not fence or line.strip().startswith(fence)):
            fence = "" if fence else opened[1]
            continue
        if fence:
            found[-1].add(line, verbatim=True)
            continue
        heading = _ATX.match(line)
        below = lines[number + 1] if number + 1 < len(lines) else ""
        if heading:
            _add_heading(found, _inline(heading[2] or "").replace("`", "").strip(), len(heading[1]))
        elif (
            line.strip()
            and re.match(r"^ {0,3}(=+|-{2,})\s*$", below)
            and not re.match(r"^\s*([-*+>|]|\d+[.)])\s", line)
        ):
            before = lines[number - 1] if number else ""
            if before.strip() and not _ATX.match(before):  # several lines above a rule: a paragraph, not a heading
                found[-1].add(_inline(line))
            else:
                _add_heading(found, _inline(line.strip()).replace("`", ""), 1 if "=" in below else 2)
        elif not re.match(r"^ {0,3}(=+|-{3,}|\*{3,}|_{3,})\s*$", line):
            found[-1].add(_inline(line))
    return found


def _inline(line: str) -> str:
    """Links, emphasis and tags off, words kept."""
    return _EMPHASIS.sub(r"\2", _TAG.sub("", _LINK.sub(r"\1", line))).rstrip()


def _rst(text: str) -> list[Section]:
    found = [Section("", 1)]
    styles: list[str] = []  # underline characters in order of appearance are the levels
    lines = text.expandtabs(4).splitlines()
    for number, line in enumerate(lines):
        below = lines[number + 1] if number + 1 < len(lines) else ""
        above = lines[number - 1] if number else ""
        if _UNDERLINE.match(line.strip()):
            continue
        if (
            line.strip()
            and not line.startswith(" ")
            and _UNDERLINE.match(below)
            and len(below.rstrip()) >= len(line.rstrip())
        ):
            style = below[0] + ("o" if _UNDERLINE.match(above) else "")
            if style not in styles:
                styles.append(style)
            _add_heading(found, _rst_inline(line.strip()), styles.index(style) + 1)
        elif not _RST_COMMENT.match(line):
            found[-1].add(_rst_inline(re.sub(r"^(\s*)\.\. [\w-]+:: *", r"\1", line)))
    return found


def _rst_inline(line: str) -> str:
    """Roles, links, emphasis and literal marks off, words kept."""

    def words(match: re.Match[str]) -> str:
        target = _RST_TARGET.match(match[1])
        return target[1] if target else match[1].lstrip("~!")

    return _EMPHASIS.sub(r"\2", _RST_ROLE.sub(words, line.replace("``", "\0"))).replace("\0", "").rstrip()


def _add_heading(found: list[Section], heading: str, level: int) -> None:
    if level <= SECTION_LEVELS:
        found.append(Section(heading, level))
    else:
        found[-1].add(heading, verbatim=True)


_SILENT = {
    "script",
    "style",
    "noscript",
    "template",
    "svg",
    "math",
    "nav",
    "footer",
    "form",
    "button",
    "select",
    "iframe",
    "object",
}
_BLOCKS = {
    "p", "div", "li", "ul", "ol", "dl", "dt", "dd", "br", "tr", "table", "section", "article", "main", "pre", "blockquote", "figure",
    "figcaption", "header", "aside", "hr", "details", "summary", "address", "body",
}  # fmt: skip
_PARAGRAPHS = {"p", "section", "article", "table", "ul", "ol", "dl", "blockquote", "pre"}


class _HtmlSections(HTMLParser):
    """Collects headings and text blocks; silent elements (scripts, navigation) are skipped with all that is in them.

    Where a page marks its content with <main>, only that counts: the rest repeats on each page of a site.
    """

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._sections = [Section("", 1)]
        self._main: list[Section] = []
        self._buffer: list[str] = []
        self._silent = self._pre = 0
        self._in_title = False
        self._main_open = False
        self._main_from = self._heading_level = 0
        self._title = self._lang = ""

    def page(self) -> Page:
        """What was collected; the page's title is its <title>, else its first <h1>."""
        self._end_main()
        found = self._main if any(section.lines for section in self._main) else self._sections
        first = next((section.heading for section in found if section.heading and section.level == 1), "")
        named = re.split(r"\s[-|–—·]\s", " ".join(self._title.split()))[0]  # "Page - Name of the site"
        return Page(first or named, found, self._lang)

    def _end_main(self) -> None:
        self._flush()
        if self._main_open:
            self._main.extend(self._sections[self._main_from :])
            self._sections.append(Section("", 1))
            self._main_open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "html":
            self._lang = dict(attrs).get("lang") or ""
        if tag in _SILENT:
            self._silent += 1
        elif tag == "main" and not self._main_open:
            self._flush()
            self._main_open, self._main_from = True, len(self._sections)
            self._sections.append(Section("", 1))
        elif tag == "title":
            self._in_title = not self._silent
        elif tag in ("td", "th"):
            self._buffer.append(" ")
        elif re.fullmatch("h[1-6]", tag):
            self._flush()
            self._heading_level = int(tag[1])
        elif tag in _BLOCKS:
            self._flush(blank=tag in _PARAGRAPHS)
            self._pre += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag in _SILENT:
            self._silent = max(0, self._silent - 1)
        elif tag == "main":
            self._end_main()
        elif tag == "title":
            self._in_title = False
        elif self._heading_level and re.fullmatch("h[1-6]", tag):
            heading = " ".join("".join(self._buffer).split()).rstrip("¶§# ")
            self._buffer.clear()
            if heading:
                _add_heading(self._sections, heading, self._heading_level)
            self._heading_level = 0
        elif tag in _BLOCKS:
            self._flush(blank=tag in _PARAGRAPHS)
            self._pre = max(0, self._pre - (tag == "pre"))

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self._title += data
        elif not self._silent:
            self._buffer.append(data)

    def _flush(self, blank: bool = False) -> None:
        """End the block: its text becomes a line (several inside <pre>)."""
        if self._heading_level:
            self._buffer.append(" ")
            return
        text = "".join(self._buffer)
        self._buffer.clear()
        lines = text.splitlines() if self._pre else [" ".join(text.split())]
        self._sections[-1].lines.extend(line for line in lines if line.strip())
        if blank and self._sections[-1].lines[-1:] not in ([], [""]):
            self._sections[-1].lines.append("")
