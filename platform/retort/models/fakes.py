"""Models for tests: fakes with checkable answers and no weights, and tiny real models with random weights.

    FakeEncoder         vector = signed hashes of the words: texts of the same words have cosine 1
    FakeCrossEncoder    score = number of distinct query words that the passage has
    tiny_encoder, tiny_cross_encoder    a 2-layer BERT with a WordPiece tokenizer, written to a folder in a moment

They ship with the package so that users can test their own pipelines without weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from retort.corpus.words import fold, word_spans
from retort.models.cross_encoder import CrossEncoder, Verdicts
from retort.models.dual_encoder import DualEncoder, Side
from retort.models.layout import Layout
from retort.models.tokenising import UnencodableTextError, unencodable
from retort.models.word_maps import WordMap
from retort.progress import Task

__all__ = ["FakeCrossEncoder", "FakeEncoder", "tiny_cross_encoder", "tiny_encoder", "tiny_tokenizer"]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
COMMON_WORDS = (
    "a an and are as at be by can do does file find for from get has have how if in into is it its list make "
    "name new no not of on one open or out path read return set show so text that the this to two up use value "
    "what when which who will with word write you"
)


class FakeEncoder:
    """Hashes each folded word to one signed coordinate and adds them up; no weights, any text."""

    def __init__(self, dimension: int = 64, normalise: bool = True, prefixes: Mapping[str, str] | None = None) -> None:
        """Take the vectors' length, whether they get length 1, and prefixes (whose words count like any others)."""
        self.dimension = dimension
        self.normalise = normalise
        self.pooling = "mean"
        self.prefixes = {"query": "", "passage": "", **(prefixes or {})}
        self.max_tokens = {"query": 512, "passage": 512}

    @property
    def passage_space(self) -> str:
        """Digest of what decides passage vectors."""
        what = f"fake|{self.dimension}|{self.normalise}|{self.prefixes['passage']}"
        return hashlib.sha256(what.encode()).hexdigest()

    def encode(
        self,
        texts: Sequence[str],
        side: Side = "passage",
        token_budget: int | None = None,
        progress: Task | None = None,
    ) -> NDArray[np.float32]:
        """Return [n, dimension] float32; a text without words gets coordinate 0 alone."""
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for i, text in enumerate(texts):
            reason = unencodable(text)
            if reason is not None:
                raise UnencodableTextError(i, reason)
            for word in _words(self.prefixes[side] + text):
                code = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
                vectors[i, (code >> 1) % self.dimension] += 1.0 if code & 1 else -1.0
            if not vectors[i].any():
                vectors[i, 0] = 1.0
        if progress is not None:
            progress.update(len(texts))
        if self.normalise:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


class FakeCrossEncoder:
    """Counts shared words; each query word looks at its equals in the passage, or evenly at all words."""

    max_tokens = 512

    def score(
        self, pairs: Sequence[tuple[str, str]], token_budget: int | None = None, progress: Task | None = None
    ) -> NDArray[np.float32]:
        """Return [n]: how many distinct query words the passage has."""
        return self.judge(pairs, word_level=False, progress=progress).scores

    def judge(
        self,
        pairs: Sequence[tuple[str, str]],
        k: int = 8,
        layers: Sequence[int] | None = None,
        heads: list[int] | None = None,
        *,
        word_level: bool = True,
        token_budget: int | None = None,
        progress: Task | None = None,
    ) -> Verdicts:
        """Return scores, windows (all 0) and maps."""
        scores = np.zeros(len(pairs), dtype=np.float32)
        maps = []
        for i, (query, passage) in enumerate(pairs):
            reason = unencodable(query) or unencodable(passage)
            if reason is not None:
                raise UnencodableTextError(i, reason)
            asked, given = _words(query), _words(passage)
            scores[i] = len(set(asked) & set(given))
            if word_level:
                maps.append(_equal_words(asked, given, k))
        if progress is not None:
            progress.update(len(pairs))
        return Verdicts(scores, np.zeros(len(pairs), dtype=np.int16), maps if word_level else None)


def tiny_tokenizer(vocabulary: Sequence[str] = (), max_tokens: int = 64) -> PreTrainedTokenizerFast:
    """Return a WordPiece tokenizer of single ASCII characters, some common words and the `vocabulary` (lower case)."""
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = [*SPECIAL, *characters, *(f"##{c}" for c in characters if c.isalnum()), *COMMON_WORDS.split(), *vocabulary]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    rust = Tokenizer(WordPiece(vocab, unk_token="[UNK]"))
    rust.normalizer = normalizers.BertNormalizer()
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    rust.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=rust,
        model_max_length=max_tokens,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def tiny_encoder(
    folder: str | Path,
    vocabulary: Sequence[str] = (),
    *,
    dimension: int = 32,
    layers: int = 2,
    max_tokens: int = 64,
    pooling: str = "mean",
    normalise: bool = True,
    prefixes: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Path:
    """Write a random dual encoder to `folder` and return it; same arguments, same weights.

    Words of `vocabulary` become single tokens; other words fall apart into characters.
    """
    tokenizer = tiny_tokenizer(vocabulary, max_tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(_tiny_config(len(tokenizer), dimension, layers, max_tokens))
    layout = Layout(pooling, normalise, max_tokens=dict.fromkeys(("query", "passage"), max_tokens)).replaced(
        prefixes=prefixes
    )
    DualEncoder(model, tokenizer, layout, device="cpu", precision="fp32").save(folder)
    return Path(folder)


def tiny_cross_encoder(
    folder: str | Path,
    vocabulary: Sequence[str] = (),
    *,
    labels: int = 1,
    dimension: int = 32,
    layers: int = 2,
    max_tokens: int = 64,
    seed: int = 0,
) -> Path:
    """Write a random cross-encoder of one or two logits to `folder` and return it; same arguments, same weights."""
    tokenizer = tiny_tokenizer(vocabulary, max_tokens)
    config = _tiny_config(len(tokenizer), dimension, layers, max_tokens)
    config.num_labels = labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(config)
    CrossEncoder(model, tokenizer, device="cpu", precision="fp32").save(folder)
    return Path(folder)


def _tiny_config(vocabulary: int, dimension: int, layers: int, max_tokens: int) -> BertConfig:
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=dimension,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * dimension,
        max_position_embeddings=max_tokens,
        initializer_range=0.2,  # BERT's 0.02 leaves so narrow a model almost without differences between texts
        pad_token_id=0,
    )


def _words(text: str) -> list[str]:
    return [fold(text[start:stop]) for start, stop in word_spans(text)]


def _equal_words(asked: list[str], given: list[str], k: int) -> WordMap:
    """Return the map in which equal words look at each other, and a word without an equal at all words evenly."""
    equal = np.array([[a == b for b in given] for a in asked], dtype=np.float32).reshape(len(asked), len(given))
    forward = np.where(equal.any(axis=1, keepdims=True), equal, 1)
    forward = forward / np.maximum(forward.sum(axis=1, keepdims=True), 1)
    backward = np.where(equal.T.any(axis=1, keepdims=True), equal.T, 1)
    backward = backward / np.maximum(backward.sum(axis=1, keepdims=True), 1)
    kept = np.unique(np.argsort(-forward, axis=1, kind="stable")[:, :k]).astype(np.int32)
    return WordMap(
        query_words=len(asked),
        first=0,
        stop=len(given),
        words=kept,
        to_passage=forward[:, kept].astype(np.float32),
        to_query=backward[kept].astype(np.float32),
    )
