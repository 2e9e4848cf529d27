"""Texts tokenised once, and the assembly of (query, passage) pairs from those tokens.

A tokenizer cuts the two texts of a pair apart from each other and then lays special tokens round them. So each text is
tokenised once, however many pairs and epochs it takes part in, and a pair is put together from the stored tokens; that it
equals what the tokenizer makes of the pair is tested.

    tokenise     texts -> Ragged token ids, without special tokens
    PairLayout   where the special tokens and token types go, learnt from the tokenizer by one example

Neighbours: `prepare.py` stores the tokens, `trainer.py` assembles batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retort.errors import ModelError
from retort.teaching.groups import Ragged

__all__ = ["PairLayout", "tokenise"]

TEXTS_AT_ONCE = 4096  # texts given to the tokenizer in one call: bounds its memory


def tokenise(tokenizer: Any, texts: Iterable[Sequence[str]], max_tokens: int) -> Ragged:
    """Return the token ids of each text without special tokens, cut to `max_tokens`; `texts` come in batches."""
    values: list[NDArray[np.int32]] = [np.zeros(0, dtype=np.int32)]
    lengths: list[int] = []
    for batch in texts:
        for start in range(0, len(batch), TEXTS_AT_ONCE):
            encoded = tokenizer(
                list(batch[start : start + TEXTS_AT_ONCE]),
                add_special_tokens=False,
                truncation=True,
                max_length=max_tokens,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]
            lengths.extend(len(ids) for ids in encoded)
            values.append(np.fromiter((token for ids in encoded for token in ids), dtype=np.int32))
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Ragged(values=np.concatenate(values), offsets=offsets)


@dataclass(frozen=True)
class PairLayout:
    """The special tokens round a pair: prefix, query, middle, passage, suffix; and the token type of each."""

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]
    types: tuple[int, int, int, int, int] | None  # of prefix, query, middle, passage, suffix; None: model takes none
    pad: int
    max_tokens: int

    @classmethod
    def of(cls, tokenizer: Any, max_tokens: int) -> PairLayout:
        """Read the layout off one encoded pair.

        Raises:
            ModelError: the tokenizer is not a fast one, so that it does not tell which token came from which text.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"The tokenizer {type(tokenizer).__name__} is a slow one, without character offsets; "
                "expected one with a tokenizer.json. Save the model with AutoTokenizer(..., use_fast=True) first."
            )
        encoded = tokenizer("a", "a")
        owners: list[int | None] = encoded.sequence_ids(0)
        ids: list[int] = encoded["input_ids"]
        query = [i for i, owner in enumerate(owners) if owner == 0]
        passage = [i for i, owner in enumerate(owners) if owner == 1]
        parts = [ids[: query[0]], ids[query[-1] + 1 : passage[0]], ids[passage[-1] + 1 :]]
        types = None
        if "token_type_ids" in encoded:
            kinds = encoded["token_type_ids"]
            # The middle belongs with the query in BERT; XLM-R has two separators and one type.
            last = kinds[-1] if parts[2] else kinds[passage[0]]
            types = (kinds[0], kinds[query[0]], kinds[query[-1] + 1], kinds[passage[0]], last)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        return cls(tuple(parts[0]), tuple(parts[1]), tuple(parts[2]), types, pad, max_tokens)

    @property
    def special_tokens(self) -> int:
        """Number of special tokens in a pair."""
        return len(self.prefix) + len(self.middle) + len(self.suffix)

    def lengths(self, queries: NDArray[np.integer], passages: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return tokens of each pair after cutting, from the tokens of its two texts; [pairs]."""
        whole: NDArray[np.int64] = queries.astype(np.int64) + passages + self.special_tokens
        return np.minimum(whole, self.max_tokens)

    def assemble(
        self, pairs: Sequence[tuple[NDArray[np.integer], NDArray[np.integer]]], device: torch.device | str = "cpu"
    ) -> dict[str, Tensor]:
        """Return input_ids, attention_mask and (where the model takes them) token_type_ids, each [pairs, tokens] int64.

        A pair that is too long loses the end of its passage; a query takes at most half of the room.
        """
        room = self.max_tokens - self.special_tokens
        rows: list[tuple[NDArray[np.integer], NDArray[np.integer]]] = []
        for query, passage in pairs:
            kept = query[: room // 2]
            rows.append((kept, passage[: room - len(kept)]))
        width = self.special_tokens + max((len(q) + len(p) for q, p in rows), default=0)
        ids = np.full((len(rows), width), self.pad, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        kinds = np.zeros((len(rows), width), dtype=np.int64)
        for i, (query, passage) in enumerate(rows):
            sequence = np.concatenate([self.prefix, query, self.middle, passage, self.suffix]).astype(np.int64)
            ids[i, : len(sequence)] = sequence
            mask[i, : len(sequence)] = 1
            if self.types is not None:
                counts = (len(self.prefix), len(query), len(self.middle), len(passage), len(self.suffix))
                kinds[i, : len(sequence)] = np.repeat(self.types, counts)
        tensors = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if self.types is not None:
            tensors["token_type_ids"] = torch.from_numpy(kinds)
        return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
