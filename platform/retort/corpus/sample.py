"""The embedded sample: docstrings of the Python packages that Retort's own install brings, so no download is needed.

    docstring_sample(limit)   the whole sample: passages, and queries with qrels for train, dev and test
    PACKAGES                  where the docstrings come from; a package that is not installed is left out

A passage is the body of one docstring, its query the summary line, which the passage does not contain. Sources are read
as text with `ast` and never imported. Cleaning one docstring is in `docstrings.py`.

The sample is a pure function of the installed versions and the arguments: modules are visited in the order of a hash of
their name, packages in turns (the one with the fewest passages so far gives its next module), and a module's split is a
hash of its name, so no module is in two splits.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from retort.corpus.docstrings import read_docstring

PACKAGES = (
    "numpy", "scipy", "scikit-learn", "pandas", "networkx", "sympy", "matplotlib", "torch", "ray", "transformers",
    "pyarrow", "pydantic", "fsspec", "huggingface-hub", "rich", "aiohttp", "click", "jinja2", "joblib",
    "werkzeug", "websockets", "fonttools", "pillow", "setuptools",
)  # fmt: skip
"""Well-documented distributions that Retort needs in every install (no extra), by their names on the package index."""

SPLIT_SHARES = {"test": 0.2, "dev": 0.2}
"""Shares of the modules; the rest is train."""

MODULE_LIMIT = 40
"""At most this many passages from one module, so that a file of a thousand methods does not outweigh its package."""

_SKIPPED_FOLDERS = re.compile(
    r"(^|/)(_?tests?|testing|_vendor|vendored?|third_?party(_files)?|benchmarks?|thirdparty_files)/"
)
_SHINGLE_WORDS = 4
_SKETCH_SIZE = 12
_SKETCH_SHARED = 5


@dataclass(frozen=True)
class SamplePassage:
    """One docstring body. `section` is the top-level package, `doc_id` the module."""

    passage_id: str
    text: str
    doc_id: str
    section: str
    title: str = ""
    lang: str = "en"


@dataclass(frozen=True)
class SampleQuery:
    """One docstring's summary line."""

    query_id: str
    text: str
    lang: str = "en"
    origin: str = "docstring"


@dataclass(frozen=True)
class SampleSplit:
    """Queries of one split, and their qrels: query id -> passage id -> grade."""

    queries: list[SampleQuery] = field(default_factory=list)
    qrels: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class SampleSplits:
    """The sample: one corpus for all queries, and three splits of the queries that share no module."""

    passages: list[SamplePassage]
    train: SampleSplit
    dev: SampleSplit
    test: SampleSplit
    packages: dict[str, str]
    """Import package -> version, of those that gave passages."""

    @property
    def splits(self) -> dict[str, SampleSplit]:
        """The three splits by name."""
        return {"train": self.train, "dev": self.dev, "test": self.test}


@dataclass(frozen=True)
class Source:
    """The .py files of one distribution: (module name, path), in the order in which they are visited."""

    package: str
    version: str
    modules: list[tuple[str, Path]]


def docstring_sample(
    limit: int = 3000,
    *,
    max_words: int = 40,
    min_words: int = 15,
    packages: Sequence[str] = PACKAGES,
    sources: Sequence[Source] | None = None,
) -> SampleSplits:
    """Collect about `limit` passages (the last module is taken whole) and their queries.

    A passage has at most `max_words` words separated by spaces and at least `min_words` runs of two letters or more.
    `sources` replaces the installed `packages`. Fewer passages than `limit` come back where they have no more.
    """
    found = list(sources) if sources is not None else installed_sources(packages)
    passages: list[SamplePassage] = []
    splits = {"train": SampleSplit(), "dev": SampleSplit(), "test": SampleSplit()}
    seen = _Seen()
    counts = {source.package: 0 for source in found}
    pending = {source.package: iter(source.modules) for source in found}
    while pending and len(passages) < limit:
        package = min(pending, key=lambda name: (counts[name], name))
        module, path = next(pending[package], ("", None))
        if path is None:
            del pending[package]
            continue
        split = splits[split_of(module)]
        taken = 0
        for name, docstring in module_docstrings(path):
            pair = read_docstring(docstring, max_words=max_words, min_words=min_words)
            passage_id = f"{module}.{name}"
            if pair is None or taken == MODULE_LIMIT or not seen.add(passage_id, pair.summary, pair.body):
                continue
            query_id = f"{passage_id}#summary"
            passages.append(SamplePassage(passage_id, pair.body, doc_id=module, section=package))
            split.queries.append(SampleQuery(query_id, pair.summary))
            split.qrels[query_id] = {passage_id: 1}
            taken += 1
        counts[package] += taken
    versions = {source.package: source.version for source in found if counts[source.package]}
    return SampleSplits(passages, splits["train"], splits["dev"], splits["test"], versions)


def installed_sources(packages: Sequence[str] = PACKAGES) -> list[Source]:
    """The .py files of the installed distributions among `packages`, without tests and bundled copies of others."""
    sources = []
    for distribution_name in packages:
        try:
            distribution = importlib.metadata.distribution(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            continue
        by_package: dict[str, list[tuple[str, Path]]] = {}
        for file in distribution.files or []:
            name = file.as_posix()
            if not name.endswith(".py") or "/" not in name or name.startswith("..") or _SKIPPED_FOLDERS.search(name):
                continue
            if name.rsplit("/", 1)[1].startswith(("test_", "conftest")):
                continue
            package = name.split("/", 1)[0]
            by_package.setdefault(package, []).append((module_name(name), Path(str(distribution.locate_file(file)))))
        if (
            by_package
        ):  # a distribution may install side packages (numpy: none, setuptools: pkg_resources): the largest counts
            package = max(by_package, key=lambda name: (len(by_package[name]), name))
            modules = sorted(by_package[package], key=lambda item: _fraction("order:" + item[0]))
            sources.append(Source(package, distribution.version, modules))
    return sources


def module_name(path: str) -> str:
    """The dotted module of a path below site-packages: "numpy/fft/__init__.py" -> "numpy.fft"."""
    parts = path.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def split_of(module: str) -> str:
    """ "train", "dev" or "test": a hash of the module's name, so it is the same in every version of its package."""
    position = _fraction("split:" + module)
    for name, share in SPLIT_SHARES.items():
        if position < share:
            return name
        position -= share
    return "train"


def module_docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """(qualified name, docstring) of the public classes, functions and methods of a source file; [] if it does not parse."""
    try:
        source = path.read_text(encoding="utf-8")
        if '"""' not in source:
            return
        tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError):  # a template or a Python 2 leftover among the package's files
        return
    yield from _docstrings_below(tree, "")


def _docstrings_below(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, str]]:
    for child in node.body:
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or child.name.startswith("_"):
            continue
        docstring = ast.get_docstring(child)
        if docstring:
            yield prefix + child.name, docstring
        if isinstance(child, ast.ClassDef):
            yield from _docstrings_below(child, f"{prefix}{child.name}.")


class _Seen:
    """What was taken: ids, summaries, and a sketch of each body that finds near copies of it."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._summaries: set[str] = set()
        self._bodies: dict[int, list[int]] = {}  # shingle hash -> numbers of the bodies whose sketch holds it

    def add(self, passage_id: str, summary: str, body: str) -> bool:
        """Take it and say True, unless its id, its summary or (nearly) its body is there already."""
        summary_key = " ".join(re.findall(r"\w+", summary.casefold()))
        sketch = body_sketch(body)
        if passage_id in self._ids or summary_key in self._summaries or self._near(sketch):
            return False
        for value in sketch:
            self._bodies.setdefault(value, []).append(len(self._ids))
        self._ids.add(passage_id)
        self._summaries.add(summary_key)
        return True

    def _near(self, sketch: list[int]) -> bool:
        shared: dict[int, int] = {}
        for value in sketch:
            for number in self._bodies.get(value, ()):
                shared[number] = shared.get(number, 0) + 1
        return bool(shared) and max(shared.values()) >= min(_SKETCH_SHARED, len(sketch))


def body_sketch(body: str) -> list[int]:
    """The smallest hashes of the body's runs of words: bodies with much text in common share many of them (bottom-k MinHash)."""
    words = re.findall(r"\w+", body.casefold())
    runs = {" ".join(words[i : i + _SHINGLE_WORDS]) for i in range(max(1, len(words) - _SHINGLE_WORDS + 1))}
    return sorted({zlib.crc32(run.encode()) for run in runs})[:_SKETCH_SIZE]


def _fraction(text: str) -> float:
    """A number in [0, 1) from the text, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
