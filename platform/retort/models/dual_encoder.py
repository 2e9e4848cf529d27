"""The dual encoder: a text goes in, one vector comes out; relevance of a query and a passage is their inner product.

    DualEncoder         load, encode, forward (with gradients), save
    passage_space       the digest that says whose passage vectors an encoder's query vectors belong to

Folders are read and written in the layout of sentence-transformers (and so of Hugging Face):
`SentenceTransformer(path)` and `AutoModel.from_pretrained(path)` give the same vectors. What neither knows (a query
encoder's passage space, another limit for queries) is in `retort.json`. Letters: b texts, t tokens, d dimensions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from retort.errors import ModelError
from retort.models import attention
from retort.models.alignment import Words, token_words
from retort.models.backend import Precision, autocast, pick_device, pick_precision
from retort.models.inference import Inference
from retort.models.layout import Layout, read_layout, write_layout
from retort.models.loading import load_model, load_tokenizer, max_positions, quiet
from retort.models.onnx_graph import Backend
from retort.models.pooling import POOLINGS, pool
from retort.models.tokenising import TextTokenizer, UnencodableTextError
from retort.progress import Task

__all__ = ["DualEncoder", "Encoder", "Side", "passage_space"]

Side = Literal["query", "passage"]
TEXTS_AT_ONCE = 16384  # texts tokenised and sorted together: bounds memory whatever the number of texts


class Encoder(Protocol):
    """What search needs of an encoder; `DualEncoder` and `fakes.FakeEncoder` have it."""

    @property
    def dimension(self) -> int:
        """Length of the vectors."""

    @property
    def normalise(self) -> bool:
        """Whether vectors have length 1, so that the inner product is the cosine."""

    @property
    def passage_space(self) -> str:
        """Digest of the passage encoder that the query vectors belong to."""

    def encode(
        self,
        texts: Sequence[str],
        side: Side = "passage",
        token_budget: int | None = None,
        progress: Task | None = None,
    ) -> NDArray[np.float32]:
        """Return [n, dimension] float32 vectors in the order of `texts`."""


class DualEncoder(nn.Module):
    """A transformer body, pooling and prefixes. As a torch module it is trained; `encode` is for inference."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        layout: Layout,
        *,
        device: str | torch.device | None = None,
        precision: str = "auto",
    ) -> None:
        """Take a loaded body (`load` does); raises ModelError for a pooling that is not there."""
        super().__init__()
        if layout.pooling not in POOLINGS:
            raise ModelError(
                f"Pooling {layout.pooling!r} is not supported: expected one of {', '.join(sorted(POOLINGS))}."
            )
        attention.install(model)
        # No pooling here uses BERT's pooler, and data parallelism fails on weights without gradients. It is kept aside
        # (in a tuple: not a submodule) and saved again, so that other tools find a complete model.
        self._aside: tuple[nn.Module | None] = (getattr(model, "pooler", None),)
        if self._aside[0] is not None:
            _set_pooler(model, None)
        self.model = model
        self.tokenizer = tokenizer
        self.layout = layout
        self.precision: Precision = pick_precision(device, precision)
        self._cutters: dict[Side, TextTokenizer] = {
            "query": TextTokenizer(tokenizer, layout.max_tokens["query"]),
            "passage": TextTokenizer(tokenizer, layout.max_tokens["passage"]),
        }
        self.to(pick_device(device))
        self.eval()
        self._inference = Inference(model, self.precision, int(tokenizer.pad_token_id or 0))

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str | torch.device | None = None,
        precision: str = "auto",
        *,
        pooling: str | None = None,
        normalise: bool | None = None,
        prefixes: Mapping[str, str] | None = None,
        max_tokens: int | Mapping[str, int] | None = None,
        backend: Backend | Literal["auto"] = "torch",
    ) -> DualEncoder:
        """Load a local folder; what is given overrides what the folder says.

        Args:
            folder: sentence-transformers layout, or a plain Hugging Face model (mean pooling, normalised, unless
            given).
            device: "cpu", "cuda", "cuda:N"; None takes CUDA where there is one.
            precision: "auto", "fp32" or "bf16", of matrix products; weights and vectors are float32.
            pooling: "mean" or "cls".
            normalise: whether vectors get length 1.
            prefixes: texts laid before each "query" and "passage".
            max_tokens: longest input in tokens, for both sides or each.
            backend: what `encode` runs in (`onnx_graph.py`); "auto" takes what is faster with equal numbers here.

        Raises:
            NotFoundError: no such folder. ModelError: what is in it cannot be used. ConfigError: no such backend here.
        """
        path = Path(folder)
        # ModernBERT's compiled kernels and the like are not asked for: the same numbers everywhere.
        model, missing = load_model(AutoModel, path)
        missing = {name for name in missing if "pooler" not in name.split(".") and not name.endswith("position_ids")}
        if missing:
            raise ModelError(
                f"{path} lacks weights of its {type(model).__name__}: {', '.join(sorted(missing)[:3])}. "
                "Restore the file, or name a folder with the whole encoder."
            )
        tokenizer = load_tokenizer(path)
        layout = read_layout(path, max_positions(model.config, tokenizer)).replaced(
            pooling=pooling, normalise=normalise, prefixes=prefixes, max_tokens=max_tokens
        )
        encoder = cls(model, tokenizer, layout, device=device, precision=precision)
        encoder.use_backend(backend)
        return encoder

    def use_backend(self, backend: Backend | Literal["auto"]) -> Backend:
        """Let `encode` run in this backend, with the weights as they are now; returns the one chosen.

        `forward` always runs in torch, and training goes back to torch for good: a graph keeps the weights it was made of.
        """
        return self._inference.use_backend(backend)

    @property
    def backend(self) -> Backend:
        """What `encode` runs in."""
        return self._inference.backend

    def use_padding(self, padding: bool) -> bool:
        """Let `encode` pad texts to the longest of their batch, or lay them end to end; returns whether it pads now.

        Unasked, it lays them end to end on a GPU in bfloat16. A model that does not give the same states so is padded anyway.
        """
        return self._inference.use_padding(padding)

    def pack(self, *, for_queries: bool = False) -> Self:
        """Lay the weights out for `encode`: the same vectors within rounding, sooner, with less memory. From then on it can only encode.

        `for_queries`: a few short texts at a time. On a processor without bfloat16 their time is that of reading the weights, so that
        these are kept in float16 there, if that is faster. It rounds less than bfloat16 does.

        Changes nothing on a GPU, for a backend other than torch, without padding, and where torch cannot do it (`flat.py`, `packed.py`).
        """
        self._inference.pack(half_weights=for_queries)
        return self

    def train(self, mode: bool = True) -> Self:
        """As torch's; weights that may change leave the graph behind."""
        if mode:
            self._inference.forget_weights()
        return super().train(mode)

    # What it is

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return int(self.model.config.hidden_size)

    @property
    def pooling(self) -> str:
        """ "mean" or "cls"."""
        return self.layout.pooling

    @property
    def normalise(self) -> bool:
        """Whether vectors have length 1."""
        return self.layout.normalise

    @property
    def prefixes(self) -> Mapping[str, str]:
        """Texts laid before each {"query", "passage"}."""
        return self.layout.prefixes

    @property
    def max_tokens(self) -> Mapping[str, int]:
        """Longest input of each {"query", "passage"}, in tokens, special ones included."""
        return self.layout.max_tokens

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def passage_space(self) -> str:
        """Digest (64 hex characters) of the passage encoder that the query vectors belong to.

        A tuned query encoder keeps its base's (recorded in its folder); any other encoder is its own passage encoder:
        the digest covers weights, vocabulary, pooling, normalisation, passage prefix, dimension and passage limit.
        """
        return self.layout.passage_space or self.own_space()

    def own_space(self) -> str:
        """Return the digest of this encoder as a passage encoder, computed from its present weights."""
        self._inference.must_be_whole()
        digest = hashlib.sha256()
        settings = {
            "pooling": self.pooling,
            "normalise": self.normalise,
            "prefix": self.prefixes["passage"],
            "dimension": self.dimension,
            "max_tokens": self.max_tokens["passage"],
            "vocabulary": sorted(self.tokenizer.get_vocab().items()),
        }
        digest.update(json.dumps(settings, sort_keys=True).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            values = tensor.detach().cpu()
            values = values.float() if values.is_floating_point() else values
            digest.update(f"\n{name} {values.dtype} {tuple(values.shape)}\n".encode())
            digest.update(values.contiguous().numpy().tobytes())
        return digest.hexdigest()

    # Tokens

    def tokenize(self, texts: Sequence[str], side: Side) -> list[list[int]]:
        """Return token ids with prefix and special tokens, cut to the side's limit.

        Raises:
            UnencodableTextError: a text with a lone surrogate; names its index and position.
        """
        prefix = self.prefixes[side]
        return self._cutters[side].ids([prefix + text for text in texts] if prefix else texts)

    def tokenize_words(self, texts: Sequence[str], side: Side) -> list[tuple[list[int], Words]]:
        """Return (token ids, words of each token) of each text; prefix and special tokens belong to no word.

        Words are those of `corpus.words.word_spans(text)`; see `alignment.Words`. Errors as `tokenize`.
        """
        prefix = self.prefixes[side]
        encodings = self._cutters[side].encode([prefix + text for text in texts] if prefix else texts)
        return [
            (encoding.ids, token_words(encoding.offsets, text, special=encoding.special_tokens_mask, skip=len(prefix)))
            for encoding, text in zip(encodings, texts, strict=True)
        ]

    # Vectors

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return (states [b, t, d], vectors [b, d] float32); ids and mask [b, t] int64. Gradients flow.

        Runs in the precision of the autocast context around it; `encode` opens its own.
        """
        self._inference.must_be_whole()
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # [b, t, d]
        return states, pool(states, attention_mask, self.pooling, self.normalise)

    def encode(
        self,
        texts: Sequence[str],
        side: Side = "passage",
        token_budget: int | None = None,
        progress: Task | None = None,
    ) -> NDArray[np.float32]:
        """Return [n, dimension] float32 contiguous vectors in the order of `texts`; no gradients.

        In fp32 a text's vector is the same within 1e-5 whatever texts it comes with.

        Args:
            texts: any number of texts; an empty one gets the vector of the special tokens alone.
            side: which prefix and limit to use.
            token_budget: padded tokens a batch; None chooses for the device.
            progress: told after each batch how many texts are done.

        Raises:
            UnencodableTextError: as `tokenize`; the index is that among `texts`.
        """
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            rows = self._tokenize_chunk(texts[start : start + TEXTS_AT_ONCE], side, start)
            vectors[start : start + len(rows)] = self.encode_tokens(rows, token_budget, progress)
        return vectors

    def encode_tokens(
        self, rows: Sequence[Sequence[int]], token_budget: int | None = None, progress: Task | None = None
    ) -> NDArray[np.float32]:
        """As `encode`, from token ids made by `tokenize`."""
        vectors = np.empty((len(rows), self.dimension), dtype=np.float32)
        training = self.training
        if training:  # only then: it walks through all modules, a tenth of the time of a short query
            self.eval()
        try:
            with torch.inference_mode(), autocast(self.precision, self.device):
                for batch, found in self._inference.vectors(rows, self.layout, token_budget):
                    vectors[batch] = found
                    if progress is not None:
                        progress.update(len(batch))
        finally:
            if training:
                self.train()
        return vectors

    def _tokenize_chunk(self, texts: Sequence[str], side: Side, start: int) -> list[list[int]]:
        try:
            return self.tokenize(texts, side)
        except UnencodableTextError as error:
            raise UnencodableTextError(start + error.index, error.reason) from None

    # Files

    def save(self, folder: str | Path, *, passage_space: str | None = None) -> None:
        """Write weights (float32), tokenizer and layout; the folder loads here, in sentence-transformers and
        transformers.

        Args:
            folder: made if absent.
            passage_space: for a query encoder tuned alone: the space of its base, recorded in place of its own.
        """
        self._inference.must_be_whole()
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        layout = self.layout.replaced(passage_space=passage_space)
        with quiet(), self._complete() as model:
            model.save_pretrained(path)
            self.tokenizer.save_pretrained(path)
        write_layout(path, layout, self.dimension)

    @contextmanager
    def _complete(self) -> Iterator[PreTrainedModel]:
        """The body with the pooler that was laid aside."""
        if self._aside[0] is None:
            yield self.model
            return
        _set_pooler(self.model, self._aside[0])
        try:
            yield self.model
        finally:
            _set_pooler(self.model, None)


def _set_pooler(model: Any, pooler: nn.Module | None) -> None:
    """BERT's forward pass leaves the pooler out where there is none."""
    model.pooler = pooler


def passage_space(folder: str | Path) -> str:
    """Return the passage space of the encoder in `folder`; errors as `DualEncoder.load`."""
    return DualEncoder.load(folder, device="cpu", precision="fp32").passage_space
