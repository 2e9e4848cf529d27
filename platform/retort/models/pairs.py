"""(query, passage) pairs to token sequences; a passage longer than the model takes goes in as overlapping windows.

A tokenizer cuts the two texts of a pair apart from each other and lays special tokens round them. So each distinct
text is cut once, however many pairs it is in, and pairs are put together from the pieces (that this equals what the
tokenizer makes of a pair is tested). Letters: n pairs, b windows in a batch, t tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from retort.errors import ModelError
from retort.models.alignment import Words, token_words
from retort.models.tokenising import TextTokenizer, UnencodableTextError

__all__ = ["CutPairs", "PairBatch", "PairCutter", "Window"]


@dataclass(frozen=True)
class _Piece:
    """One text's tokens without special ones, and their words (None where the word level is off)."""

    ids: NDArray[np.int64]  # [t]
    words: Words | None  # [t, 2]


@dataclass(frozen=True)
class Window:
    """One sequence for the model: a query and a stretch of a passage's tokens."""

    pair: int  # index of the pair among those given
    number: int  # which window of its passage, from 0
    query: _Piece
    passage: _Piece
    query_tokens: int  # tokens of the query that are kept
    start: int  # stretch of the passage's tokens
    stop: int


@dataclass(frozen=True)
class PairBatch:
    """Model inputs of some windows, and where their words are; words have shape [b, t, 2] as in `alignment.Words`."""

    inputs: dict[str, Tensor]  # input_ids, attention_mask and perhaps token_type_ids: [b, t] int64
    query_words: NDArray[np.int32] | None
    passage_words: NDArray[np.int32] | None  # numbers count from the whole passage's first word


@dataclass(frozen=True)
class CutPairs:
    """All windows of the pairs given, in their order, and each one's length in tokens."""

    windows: list[Window]
    lengths: NDArray[np.int64]


class PairCutter:
    """Cuts pairs for one cross-encoder."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_tokens: int, *, types: bool = True, overlap: float = 0.25
    ) -> None:
        """Learn from one encoded pair where special tokens and token types go.

        Args:
            tokenizer: a fast tokenizer.
            max_tokens: longest sequence, special tokens included.
            types: whether the model takes token types.
            overlap: share of a window that it has in common with the next one, so that no sentence is only seen cut.

        Raises:
            ModelError: the tokenizer is slow, or `max_tokens` leaves no room.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"The tokenizer {type(tokenizer).__name__} is a slow one, without character offsets: expected one "
                "with a tokenizer.json. Save the model with a fast tokenizer first."
            )
        self._cutter = TextTokenizer(tokenizer, None, special=False)
        encoded = tokenizer("a", "a")
        ids, owners = encoded["input_ids"], encoded.sequence_ids(0)
        query = [i for i, owner in enumerate(owners) if owner == 0]
        passage = [i for i, owner in enumerate(owners) if owner == 1]
        self._special = [
            np.asarray(part, dtype=np.int64)
            for part in (ids[: query[0]], ids[query[-1] + 1 : passage[0]], ids[passage[-1] + 1 :])
        ]
        kinds = encoded.get("token_type_ids") if types else None
        # The token types of: prefix, query, middle, passage, suffix.
        self._kinds: list[int] | None = None
        if kinds is not None:
            last = kinds[-1] if len(self._special[2]) else kinds[passage[0]]
            self._kinds = [kinds[0], kinds[query[0]], kinds[query[-1] + 1], kinds[passage[0]], last]
        self._padding = int(tokenizer.pad_token_id or 0)
        self.max_tokens = max_tokens
        self._room = max_tokens - sum(len(part) for part in self._special)
        self._overlap = overlap
        if self._room < 4:
            raise ModelError(
                f"A limit of {max_tokens} tokens leaves {self._room} for query and passage: expected 4 or more."
            )

    def cut(self, pairs: Sequence[tuple[str, str]], with_words: bool) -> CutPairs:
        """Return the windows of all pairs; a query takes at most half of the room.

        Raises:
            UnencodableTextError: names the first pair with a text that is none (`index` is the pair's).
        """
        pieces = self._pieces(pairs, with_words)
        windows: list[Window] = []
        for i, (query_text, passage_text) in enumerate(pairs):
            query, passage = pieces[query_text], pieces[passage_text]
            kept = min(len(query.ids), self._room // 2)
            size, total = self._room - kept, len(passage.ids)
            step = max(1, size - int(size * self._overlap))
            count = 1 + max(0, -(-(total - size) // step))
            for number in range(count):
                start = number * step
                windows.append(Window(i, number, query, passage, kept, start, min(start + size, total)))
        fixed = self.max_tokens - self._room
        lengths = np.fromiter(
            (fixed + w.query_tokens + w.stop - w.start for w in windows), np.int64, count=len(windows)
        )
        return CutPairs(windows, lengths)

    def assemble(self, windows: Sequence[Window], device: torch.device | str = "cpu") -> PairBatch:
        """Return the model's inputs for some windows."""
        prefix, middle, suffix = self._special
        with_words = bool(windows) and windows[0].query.words is not None
        b = len(windows)
        fixed = self.max_tokens - self._room
        t = fixed + max((w.query_tokens + w.stop - w.start for w in windows), default=0)
        ids = np.full((b, t), self._padding, dtype=np.int64)
        mask = np.zeros((b, t), dtype=np.int64)
        kinds = np.zeros((b, t), dtype=np.int64)
        query_words = np.zeros((b, t, 2), dtype=np.int32) if with_words else None
        passage_words = np.zeros((b, t, 2), dtype=np.int32) if with_words else None
        for i, window in enumerate(windows):
            query, passage = window.query.ids[: window.query_tokens], window.passage.ids[window.start : window.stop]
            row = np.concatenate([prefix, query, middle, passage, suffix])
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
            query_at = len(prefix)
            passage_at = query_at + len(query) + len(middle)
            if self._kinds is not None:
                counts = [len(prefix), len(query), len(middle), len(passage), len(suffix)]
                kinds[i, : len(row)] = np.repeat(self._kinds, counts)
            if query_words is not None and passage_words is not None:
                assert window.query.words is not None and window.passage.words is not None
                query_words[i, query_at : query_at + len(query)] = window.query.words[: len(query)]
                passage_words[i, passage_at : passage_at + len(passage)] = window.passage.words[
                    window.start : window.stop
                ]
        arrays = {"input_ids": ids, "attention_mask": mask} | (
            {"token_type_ids": kinds} if self._kinds is not None else {}
        )
        inputs = {name: torch.from_numpy(array).to(device, non_blocking=True) for name, array in arrays.items()}
        return PairBatch(inputs, query_words, passage_words)

    def _pieces(self, pairs: Sequence[tuple[str, str]], with_words: bool) -> dict[str, _Piece]:
        """Cut each distinct text once."""
        distinct = list(dict.fromkeys(text for pair in pairs for text in pair))
        try:
            encodings = self._cutter.encode(distinct) if with_words else None
            rows = [e.ids for e in encodings] if encodings is not None else self._cutter.ids(distinct)
        except UnencodableTextError as error:
            bad = distinct[error.index]
            index = next(i for i, pair in enumerate(pairs) if any(text is bad or text == bad for text in pair))
            raise UnencodableTextError(index, error.reason) from None
        return {
            text: _Piece(
                np.asarray(row, dtype=np.int64),
                token_words(encodings[i].offsets, text) if encodings is not None else None,
            )
            for i, (text, row) in enumerate(zip(distinct, rows, strict=True))
        }
