"""Is a dropped negative truly false? Decided by names and words that people wrote, without any model and not by the teacher.

A passage is a package's description; the query that it was a candidate for is another package's synopsis. It counts as a
false negative when one of these holds between the two packages:

    duplicate   their descriptions share half of their words, or a third of their runs of three words; or their synopses
                share six words of ten (counted by the smaller set of words, at least three)
    sibling     their names have the same stem: without the marks of language and role (lib-, python3-, golang-, -dev, -doc,
                -common, ...), version numbers and punctuation, they begin alike, over six letters of ten of the shorter one and
                four at least

Both can be wrong for a single pair; the share among kept negatives, printed beside, says what the rule finds by chance.
"""

from __future__ import annotations

import re
from itertools import takewhile

__all__ = ["is_duplicate", "is_sibling", "name_stem"]

MARKS = {
    "lib", "python", "python3", "ruby", "golang", "node", "r", "cran", "bioc", "librust", "rust", "php", "perl", "java", "ocaml", "haskell",
    "ghc", "elpa", "gir", "dev", "doc", "docs", "common", "data", "bin", "utils", "tools", "dbg", "dbgsym", "static", "plugin", "plugins",
    "github", "com", "gopkg", "org", "in", "client", "server", "gtk", "qt", "cil", "fonts", "texlive",
}  # fmt: skip
WORDS = re.compile(r"[^\W_]+")
LEAST_STEM = 4


def name_stem(package: str) -> str:
    """`librdkafka1` -> `rdkafka`, `golang-github-foo-bar-dev` -> `foobar`."""
    parts = [re.sub(r"v?\d+$", "", part) for part in re.split(r"[-._+]", package.lower())]
    kept = [part for part in parts if part and part not in MARKS]
    stem = "".join(kept)
    return stem[3:] if stem.startswith("lib") and len(stem) >= 3 + LEAST_STEM else stem


def is_sibling(one: str, other: str) -> bool:
    """Whether two packages' names come from one source."""
    left, right = name_stem(one), name_stem(other)
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))
    return alike >= max(LEAST_STEM, 0.6 * min(len(left), len(right)))


def is_duplicate(descriptions: tuple[str, str], synopses: tuple[str | None, str | None]) -> bool:
    """Whether two packages say the same of themselves."""
    left, right = (_words(text) for text in descriptions)
    if _jaccard(set(left), set(right)) >= 0.5 or _jaccard(_runs(left), _runs(right)) >= 1 / 3:
        return True
    one, other = (set(_words(text)) if text else set() for text in synopses)
    smaller = min(len(one), len(other))
    return smaller >= 3 and len(one & other) / smaller >= 0.6


def _words(text: str) -> list[str]:
    return WORDS.findall(text.lower())


def _runs(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def _jaccard(one: set, other: set) -> float:
    return len(one & other) / len(one | other) if one and other else 0.0
