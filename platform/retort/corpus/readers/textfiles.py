"""A folder of text files: Markdown, reStructuredText, HTML, plain text (any of them .gz); each section is a document.

A section's id is the file's path and a slug of its heading (`guide/install.md#on-windows`), so that adding a section leaves the
ids of the others alone; its title is "page title: heading"; its doc_id is the path; its `section` the folder at the top.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from retort.corpus.readers.files import SourceFile, SourceFiles
from retort.corpus.readers.markup import EXTENSIONS, Page, sections
from retort.corpus.readers.rows import Document, Place, QrelRow, QueryRow, Reading, as_text
from retort.errors import InputError
from retort.store.manifest import hash_json

_SLUG_LENGTH = 60


def is_text_file(file: SourceFile) -> bool:
    """Whether the extension is one of a text format."""
    return file.extension in EXTENSIONS


class TextSource:
    """Implements `rows.Source` for the text files below a folder, or for one of them."""

    format = "text"

    def __init__(self, files: SourceFiles, reading: Reading) -> None:
        """Raises InputError where no file has a known extension."""
        self.place = files.uri
        self._files = files
        self._reading = reading
        self.files = [file.path for file in files.files if is_text_file(file)]
        if not self.files:
            raise InputError(
                f"{files.uri} holds no text files. Expected files that end in {', '.join(EXTENSIONS)} (or these with .gz)."
            )
        ignored = [file.path for file in files.files if not is_text_file(file)]
        self.notes = (
            [f"not read: {', '.join(ignored[:5])}{f' and {len(ignored) - 5} more' if len(ignored) > 5 else ''}"]
            if ignored
            else []
        )

    def digest(self) -> str:
        """Hash of the names and bytes of all files read."""
        return hash_json([[path, self._files.sha256(path)] for path in self.files])

    def documents(self) -> Iterator[Document]:
        """The sections with text, file by file."""
        for path in self.files:
            yield from self._sections(path)

    def queries(self) -> Iterator[QueryRow]:
        """None: text files have no queries."""
        return iter(())

    def qrels(self) -> Iterator[QrelRow]:
        """None: text files have no qrels."""
        return iter(())

    def _sections(self, path: str) -> Iterator[Document]:
        place = Place(self._files.full(path), 1)
        page = sections(as_text(self._files.text(path), place, "text"), SourceFile(path, 0).extension)
        folder = path.split("/", 1)[0] if "/" in path else ""
        seen: dict[str, int] = {}
        for section in page.sections:
            text = section.text
            if not text:
                continue
            title, is_heading = _title(page, section.heading)
            slug = _slug(section.heading) if is_heading else ""
            seen[slug] = seen.get(slug, 0) + 1
            anchor = slug if seen[slug] == 1 else f"{slug}-{seen[slug]}"
            yield Document(
                document_id=f"{path}#{anchor}" if anchor else path,
                text=text,
                place=place,
                title=title,
                lang=page.lang or self._reading.lang,
                section=folder,
                doc_id=path,
                title_is_heading=is_heading,
            )


def _title(page: Page, heading: str) -> tuple[str, bool]:
    """(title of the passage, whether a section's heading is part of it)."""
    if not heading or heading == page.title:
        return page.title, False
    return (f"{page.title}: {heading}" if page.title else heading), True


def _slug(heading: str) -> str:
    """The heading in lower case, words joined by "-"; letters of all scripts are kept."""
    return re.sub(r"[\W_]+", "-", heading.lower()).strip("-")[:_SLUG_LENGTH].rstrip("-") or "section"
