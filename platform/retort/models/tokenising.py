"""Texts to token ids and character offsets.

A `TextTokenizer` holds its own copy of the Rust tokenizer with its truncation set once, so that threads can share it
(transformers' wrapper sets truncation at each call, and two threads that do so at once fail with "Already borrowed").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tokenizers
from transformers import PreTrainedTokenizerBase

from retort.errors import InputError

__all__ = ["TextTokenizer", "UnencodableTextError", "unencodable"]


class UnencodableTextError(InputError):
    """A text is no Unicode text: it holds half of a surrogate pair, or is no string. `index` says which of those
    given."""

    def __init__(self, index: int, reason: str) -> None:
        """Take the text's index among those given and what is wrong with it."""
        super().__init__(f"Text {index} cannot be encoded: {reason}. Mend or leave out this text.")
        self.index = index
        self.reason = reason


def unencodable(text: object) -> str | None:
    """Return why no tokenizer can read `text`, naming the character's position; None if it can be read."""
    if not isinstance(text, str):
        return f"it is a {type(text).__name__}, expected a string"
    if text.isascii():
        return None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"character {error.start} is the lone surrogate U+{ord(text[error.start]):04X}, which is no Unicode text"
    return None


class TextTokenizer:
    """Cuts texts into at most `max_tokens` tokens; threads may share it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int | None, special: bool = True) -> None:
        """Copy the tokenizer's rules.

        Args:
            tokenizer: a fast tokenizer.
            max_tokens: longest result, special tokens included; None: never cut.
            special: lay special tokens round each text.
        """
        self._rust = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._rust.no_padding()  # files often carry a padding to 128 from their training
        self._rust.no_truncation()
        if max_tokens is not None:
            self._rust.enable_truncation(max_tokens)
        self._special = special

    def encode(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        """Return the Rust encodings: `.ids`, `.offsets` (characters), `.special_tokens_mask`.

        Raises:
            UnencodableTextError: names the first text that is none.
        """
        return self._run(self._rust.encode_batch, texts)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text; errors as `encode`."""
        return [encoding.ids for encoding in self._run(self._rust.encode_batch_fast, texts)]  # fast: without offsets

    def _run(self, encode: Callable[..., list[tokenizers.Encoding]], texts: Sequence[str]) -> list[tokenizers.Encoding]:
        try:
            return encode(list(texts), add_special_tokens=self._special)
        except (TypeError, UnicodeEncodeError):
            for index, text in enumerate(texts):
                reason = unencodable(text)
                if reason is not None:
                    raise UnencodableTextError(index, reason) from None
            raise
