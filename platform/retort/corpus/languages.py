"""Which language is a text in? By py3langid, whose model is read once, on first use (most of a second).

language_of(text)      the most likely language, ISO 639-1
surely_other(texts, language)      those that are in another language beyond doubt
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

__all__ = ["language_of", "surely_other"]

_MOST_CHARS = 1000


def language_of(text: str) -> str:
    """The most likely language of the first thousand characters."""
    guess: str = _identifier().classify(text[:_MOST_CHARS])[0]
    return guess


def surely_other(texts: Sequence[str], language: str, confidence: float) -> list[tuple[int, str]]:
    """(number, language) of each text whose language is another with at least this confidence; none for a language unknown to it."""
    if not texts:
        return []
    identifier = _identifier()
    if language not in identifier.labels:
        return []
    guesses = (identifier.classify(text) for text in texts)
    return [(i, guess) for i, (guess, sure) in enumerate(guesses) if guess != language and sure >= confidence]


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
