"""Tokens to words: which words of a text each token lies in, and the matrices that carry token maps over to words.

Teacher and student cut texts into different tokens; words (`corpus/words.py`) are what both share. A token belongs to
the words whose characters it touches: usually one; several where a vocabulary has pieces longer than a word, as in
Chinese, where a word here is a single character. Special tokens, punctuation and prefixes belong to none.
Letters: b texts, t tokens, w words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retort.corpus.words import word_spans

__all__ = ["Words", "pad_words", "pooling_matrices", "token_words", "word_matrices", "word_ranges", "words_present"]

Words: TypeAlias = NDArray[np.int32]
"""[t, 2]: the words of each token as a half-open range (first, stop); stop equals first where there is none."""


def token_words(
    offsets: Sequence[tuple[int, int]], text: str, special: Sequence[int] | None = None, skip: int = 0
) -> Words:
    """Return the words of each token.

    Args:
        offsets: (start, end) characters of each token.
        text: the text, without the prefix that was laid before it.
        special: 1 for tokens that stand for no characters, [t].
        skip: length of the prefix, in characters.
    """
    places = np.asarray(offsets, dtype=np.int64).reshape(-1, 2) - skip
    if special is not None:
        places[np.asarray(special, dtype=bool)] = -1
    return word_ranges(places, np.asarray(word_spans(text), dtype=np.int64).reshape(-1, 2))


def word_ranges(places: NDArray[np.integer], spans: NDArray[np.integer]) -> Words:
    """Return for each token [t, 2] the range of spans [w, 2] that it shares characters with, [t, 2] int32.

    Spans are sorted and disjoint; tokens that end before 0 or are empty get an empty range.
    """
    starts, ends = places[:, 0], places[:, 1]
    first = np.searchsorted(spans[:, 1], starts, side="right")  # spans that end at or before the token's start are past
    stop = np.searchsorted(spans[:, 0], ends, side="left")
    none = (ends <= starts) | (stop <= first)
    return np.stack([np.where(none, 0, first), np.where(none, 0, stop)], axis=1).astype(np.int32)


def pooling_matrices(
    words: Sequence[Words], tokens: int | None = None, width: int | None = None, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Return (columns [b, t, w], rows [b, w, t]), float32, which carry a token map [b, t, t'] over to words.

    `rows(query) @ map @ columns(passage)` takes the mean over a word's tokens as rows and sums its tokens as columns
    (methods.md section 1). A token of several words gives each an equal share. A word without tokens (cut off) has a
    zero row and a zero column.

    Args:
        words: one `Words` per text.
        tokens: t; default: the longest.
        width: w; default: the largest word number + 1; words beyond it are left out.
        device: where the matrices are made.
    """
    w = max((int(one[:, 1].max(initial=0)) for one in words), default=0) if width is None else width
    return word_matrices(pad_words(words, tokens).to(device), w)


def pad_words(words: Sequence[Words], tokens: int | None = None) -> Tensor:
    """Return [b, t, 2] int32, the words of each token with empty ranges behind the end; t: `tokens`, or the longest."""
    t = max((len(one) for one in words), default=0) if tokens is None else tokens
    ranges = np.zeros((len(words), t, 2), dtype=np.int32)
    for i, one in enumerate(words):
        ranges[i, : len(one)] = one[:t]
    return torch.from_numpy(ranges)


def words_present(ranges: Tensor, width: int) -> Tensor:
    """Return [b, w] bool: whether any token of `pad_words`' [b, t, 2] lies in the word."""
    return _inside(ranges, width).any(dim=1)


def word_matrices(ranges: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return the matrices of `pooling_matrices` from `pad_words`' ranges [b, t, 2], over the first `width` words."""
    columns = _inside(ranges, width).float() / (ranges[..., 1:] - ranges[..., :1]).clamp(min=1)  # [b, t, w]
    rows = columns.transpose(1, 2)  # [b, w, t]
    return columns, rows / rows.sum(dim=2, keepdim=True).clamp(min=1e-9)


def _inside(ranges: Tensor, width: int) -> Tensor:
    """Return [b, t, w] bool: whether the token lies in the word."""
    number = torch.arange(width, device=ranges.device)  # [w]
    return (number >= ranges[..., :1]) & (number < ranges[..., 1:])
