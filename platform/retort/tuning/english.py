"""Are the training queries in the language they are said to be in? By their lang; where they have none, by py3langid.

A short query says little about its language, so only confident answers count: at 0.8 not one of 1,600 English headings
and synopses (office-help, debian) is taken for foreign, and a fifth to a third of the German, French or Japanese ones
is found. So a share of 2 % stands for many more, and is refused; fewer are told, and nothing is dropped silently.
"""

from __future__ import annotations

from collections.abc import Sequence

from retort.corpus.languages import surely_other
from retort.errors import InputError
from retort.tuning.collection import language_tag, same_language

__all__ = ["check_language"]

CONFIDENT = 0.8
_NAMED = 5


def check_language(
    ids: Sequence[str],
    texts: Sequence[str],
    langs: Sequence[str],
    *,
    language: str,
    max_foreign_share: float,
    what: str,
) -> list[str]:
    """Check training queries; return warnings.

    Args:
        ids, texts, langs: of each query; lang may be "".
        language: that they should be in; "en" means "en-us" too.
        max_foreign_share: of the queries without a lang, how many may look foreign.
        what: the artefact, for messages.

    Raises:
        InputError: queries of another lang, or too many that look foreign; names some.
    """
    wanted = language_tag(language)
    tags = [language_tag(lang) for lang in langs]
    others = {tag: query for query, tag in zip(ids, tags, strict=True) if tag and not same_language(tag, wanted)}
    wrong = [query for query, tag in zip(ids, tags, strict=True) if tag in others]
    if wrong:
        raise InputError(
            f"{what} holds {len(wrong):,} queries that are not in {language!r} but in {', '.join(sorted(others))}, such as "
            f"{_some(wrong)}. Set query_languages to those to learn from, name queries of that language alone, or set english_only to false."
        )
    silent = [i for i, tag in enumerate(tags) if not tag]
    foreign = surely_other([texts[i] for i in silent], wanted.split("-")[0], CONFIDENT)
    if not foreign:
        return []
    named = _some([f"{ids[silent[i]]} ({guess})" for i, guess in foreign])
    found = (
        f"{len(foreign):,} of {len(silent):,} training queries without a lang surely are not in {language!r}: {named}."
    )
    if len(foreign) > max_foreign_share * len(silent):
        raise InputError(
            f"{what}: {found} Short queries often cannot be told, so there are more. Leave them out, ingest them with their lang, "
            "set english_only to false, or raise max_foreign_share."
        )
    return [f"{found} They are learnt from all the same; look at them."]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
