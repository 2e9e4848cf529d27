"""The cross-encoder: query and passage go in together; out come a relevance logit and a word-level map.

    score    logits only
    judge    logits and word maps from one forward pass: attention is computed anew for the last layers only, from the
             queries and keys that passed through them (`attention.py`)

Takes any Hugging Face sequence classifier with one logit, or two (then relevance is logit 1 minus logit 0). Passages
longer than the model go in as windows; the best window counts. Letters: n pairs, b windows in a batch, t tokens, w
words.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from retort.errors import ModelError
from retort.models import attention
from retort.models.alignment import pooling_matrices
from retort.models.backend import Precision, autocast, default_token_budget, pick_device, pick_precision
from retort.models.batching import token_batches
from retort.models.first_token import FirstToken, reads_first_token
from retort.models.loading import load_model, load_tokenizer, max_positions, quiet, read_config
from retort.models.onnx_graph import Backend, OnnxGraph, check_backend, faster_backend, onnx_graph
from retort.models.pairs import CutPairs, PairBatch, PairCutter
from retort.models.tokenising import UnencodableTextError
from retort.models.word_maps import WordMap, word_maps_of
from retort.progress import Task

__all__ = ["CrossEncoder", "Judge", "Verdicts"]

PAIRS_AT_ONCE = 8192  # pairs cut and sorted together: bounds memory whatever the number of pairs


@dataclass(frozen=True)
class Verdicts:
    """What a teacher says about n pairs, in the order given."""

    scores: NDArray[np.float32]  # [n] raw logits
    windows: NDArray[np.int16]  # [n] which window of a long passage the score and map are from
    word_maps: list[WordMap] | None  # n; None where the word level is off


class Judge(Protocol):
    """What scoring needs of a teacher; `CrossEncoder` and `fakes.FakeCrossEncoder` have it."""

    def score(
        self, pairs: Sequence[tuple[str, str]], token_budget: int | None = None, progress: Task | None = None
    ) -> NDArray[np.float32]:
        """Return [n] raw logits of (query, passage) pairs."""

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
        """Return logits, windows and word maps."""


class CrossEncoder:
    """A teacher: `model` is the torch module, which training code may drive by itself."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        device: str | torch.device | None = None,
        precision: str = "auto",
        max_tokens: int | None = None,
    ) -> None:
        """Take a loaded classifier (`load` and `from_encoder` do).

        Raises:
            ModelError: a head with neither one nor two logits, or a slow tokenizer.
        """
        _check_labels(model.config.num_labels, model.name_or_path)
        attention.install(model)
        limit = max_positions(model.config, tokenizer)
        self.max_tokens = min(max_tokens or limit, limit)
        model.to(pick_device(device))  # type: ignore[arg-type]
        model.eval()  # type: ignore[no-untyped-call]
        self.model = model

        self.tokenizer = tokenizer
        self.precision: Precision = pick_precision(device, precision)
        # Many tokenizers offer token types to models that know none, or only one.
        knows_types = "token_type_ids" in inspect.signature(model.forward).parameters
        types = knows_types and int(getattr(model.config, "type_vocab_size", 0) or 0) > 1
        self._types = types
        self._cutter = PairCutter(tokenizer, self.max_tokens, types=types)
        self._graph: OnnxGraph | None = None
        self._narrow = FirstToken.of(model)

    def use_backend(self, backend: Backend | Literal["auto"]) -> Backend:
        """Let `score` run in this backend, with the weights as they are now; returns the one chosen.

        Word maps always run in torch. "auto" takes the faster of torch and "onnx", whose numbers are equal.

        Raises:
            ConfigError: it is not there. ModelError: this architecture cannot be exported.
        """
        with self._narrow or contextlib.nullcontext():
            chosen: Backend = (
                faster_backend(self.model, "logits", self.precision, types=self._types)
                if backend == "auto"
                else backend
            )
            check_backend(chosen, self.device)
            self._graph = None
            if chosen != "torch":
                self._graph = onnx_graph(self.model, "logits", types=self._types, int8=chosen == "onnx-int8")
        return chosen

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str | torch.device | None = None,
        precision: str = "auto",
        max_tokens: int | None = None,
    ) -> CrossEncoder:
        """Load a local Hugging Face folder.

        Args:
            folder: holds config.json, safetensors and a fast tokenizer.
            device: "cpu", "cuda", "cuda:N"; None takes CUDA where there is one.
            precision: "auto", "fp32" or "bf16", of matrix products.
            max_tokens: longest sequence; default: the tokenizer's and model's own.

        Raises:
            NotFoundError: no such folder. ModelError: a bi-encoder, a head of three or more labels, a slow tokenizer.
        """
        path = Path(folder)
        config = read_config(path)
        architecture = ", ".join(config.architectures or []) or "none named"
        _refuse_encoder(path)
        if "SequenceClassification" in architecture:
            _check_labels(config.num_labels, str(path))
        tokenizer = load_tokenizer(path)
        model, missing = load_model(AutoModelForSequenceClassification, path)
        if missing:
            raise ModelError(
                f"{path} has no trained classification head (architecture: {architecture}; missing: "
                f"{', '.join(sorted(missing)[:3])}), so it is no cross-encoder. Name a sequence-classification "
                "model, or train one from this encoder with train-teacher."
            )
        return cls(model, tokenizer, device=device, precision=precision, max_tokens=max_tokens)

    @classmethod
    def from_encoder(
        cls,
        folder: str | Path,
        seed: int,
        *,
        max_tokens: int | None = None,
        device: str | torch.device | None = None,
        precision: str = "auto",
    ) -> CrossEncoder:
        """Return an untrained cross-encoder: the body of a dual encoder under a new one-logit head drawn from `seed`.

        Raises:
            NotFoundError, ModelError: as `load`.
        """
        path = Path(folder)
        tokenizer = load_tokenizer(path)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, missing = load_model(AutoModelForSequenceClassification, path, labels=1)
        body = f"{model.base_model_prefix}."
        lost = {name for name in missing if name.startswith(body) and "pooler" not in name.split(".")}
        if lost:
            raise ModelError(f"{path} lacks weights of its body: {', '.join(sorted(lost)[:3])}. Restore the file.")
        return cls(model, tokenizer, device=device, precision=precision, max_tokens=max_tokens)

    @property
    def layers(self) -> int:
        """How many attention layers there are."""
        return int(self.model.config.num_hidden_layers)

    @cached_property
    def last_layer_read(self) -> int:
        """The last layer, from 0, whose attention between words the logit depends on.

        A classifier that reads its first token alone leaves what the other tokens attend to in the last layer unread.
        """
        return max(0, self.layers - (2 if reads_first_token(self.model) else 1))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def score(
        self, pairs: Sequence[tuple[str, str]], token_budget: int | None = None, progress: Task | None = None
    ) -> NDArray[np.float32]:
        """Return [n] float32 raw logits (no sigmoid), in the order of `pairs`; errors as `judge`."""
        return self.judge(pairs, word_level=False, token_budget=token_budget, progress=progress).scores

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
        """Return logits, windows and word maps of (query, passage) pairs.

        Args:
            pairs: texts.
            k: passage words kept for each query word.
            layers: the map is the mean over these layers, numbered from 0; None: the last one that is read.
            heads: heads to take the mean over; None: all.
            word_level: whether maps are made.
            token_budget: padded tokens a batch; None chooses for the device.
            progress: told how many pairs are done.

        Raises:
            UnencodableTextError: a text with a lone surrogate; `index` is the pair's.
        """
        chosen: tuple[int, ...] = ()
        if word_level:  # scores alone, as of a service, do not ask what is read
            chosen = (self.last_layer_read,) if layers is None else tuple(layers)
            assert k > 0 and chosen and set(chosen) <= set(range(self.layers)), (k, chosen)
        scores = np.zeros(len(pairs), dtype=np.float32)
        seen = np.zeros(len(pairs), dtype=bool)
        best = np.zeros(len(pairs), dtype=np.int16)
        maps: list[WordMap | None] = [None] * len(pairs)
        budget = token_budget or default_token_budget(self.device)
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            cut = self._cut(pairs[start : start + PAIRS_AT_ONCE], word_level, start)
            for rows in token_batches(cut.lengths, budget):
                windows = [cut.windows[i] for i in rows]
                logits, made = self._run(
                    self._cutter.assemble(windows, self.device), k if word_level else 0, chosen, heads
                )
                for i, window in enumerate(windows):
                    pair = start + window.pair
                    # Ties go to the earlier window, whichever batch it was in.
                    if not seen[pair] or (logits[i], -window.number) > (scores[pair], -int(best[pair])):
                        scores[pair], best[pair], seen[pair] = logits[i], window.number, True
                        maps[pair] = made[i] if made else None
                if progress is not None:
                    progress.update(sum(window.number == 0 for window in windows))
        return Verdicts(scores, best, [one for one in maps if one is not None] if word_level else None)

    def save(self, folder: str | Path) -> None:
        """Write weights, config and tokenizer (its limit is this model's); loads here and in transformers."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        with quiet():
            self.model.save_pretrained(path)
            limit, self.tokenizer.model_max_length = self.tokenizer.model_max_length, self.max_tokens
            try:
                self.tokenizer.save_pretrained(path)
            finally:
                self.tokenizer.model_max_length = limit

    def _cut(self, pairs: Sequence[tuple[str, str]], word_level: bool, start: int) -> CutPairs:
        try:
            return self._cutter.cut(pairs, word_level)
        except UnencodableTextError as error:
            raise UnencodableTextError(start + error.index, error.reason) from None

    def _run(
        self, batch: PairBatch, k: int, layers: Sequence[int], heads: list[int] | None
    ) -> tuple[NDArray[np.float32], list[WordMap]]:
        """Return logits [b] and, for k > 0, the batch's word maps."""
        narrow = self._narrow or contextlib.nullcontext()
        with torch.inference_mode(), autocast(self.precision, self.device), narrow:
            if k == 0:
                logits = self.model(**batch.inputs).logits if self._graph is None else self._graph(batch.inputs)
                return relevance(logits).cpu().numpy(), []
            output, probabilities = self._attend(batch.inputs, layers, heads)
        assert batch.query_words is not None and batch.passage_words is not None
        with torch.inference_mode():
            first = _first_words(batch.passage_words)  # [b]
            relative = batch.passage_words - first[:, None, None] * (batch.passage_words[..., 1:] > 0)
            query_columns, query_rows = pooling_matrices(list(batch.query_words), device=self.device)
            passage_columns, passage_rows = pooling_matrices(list(relative), device=self.device)
            to_passage = _normalise(query_rows @ probabilities @ passage_columns)  # [b, wq, wp]
            to_query = _normalise(passage_rows @ probabilities @ query_columns)  # [b, wp, wq]
            sizes = batch.query_words[..., 1].max(axis=1), relative[..., 1].max(axis=1)  # [b] each
            return relevance(output).cpu().numpy(), word_maps_of(to_passage, to_query, *sizes, first, k)

    def _attend(
        self, inputs: dict[str, Tensor], layers: Sequence[int], heads: list[int] | None
    ) -> tuple[Tensor, Tensor]:
        """Return (logits, attention [b, t, t] float32: mean over heads and these layers), from one forward pass."""
        mask = inputs["attention_mask"]
        if attention.uses_ours(self.model):
            with attention.recording(layers) as record:
                logits = self.model(**inputs).logits
            # Outside autocast: the map is computed in float32 whatever the model runs in.
            with torch.autocast(self.device.type, enabled=False):
                return logits, record.probabilities(mask, heads)
        output = self.model(**inputs, output_attentions=True)
        chosen = [output.attentions[number].float() for number in layers]
        means = [(layer if heads is None else layer[:, heads]).mean(dim=1) for layer in chosen]
        return output.logits, torch.stack(means).mean(dim=0)


def _check_labels(labels: int | None, where: str | None) -> None:
    if labels not in (1, 2):
        raise ModelError(
            f"The classifier in {where} has {labels} labels: expected one relevance logit, or two (not relevant, "
            "relevant). Choose a re-ranking model."
        )


def _refuse_encoder(folder: Path) -> None:
    """Raise ModelError for a folder in the layout of a bi-encoder, whatever else is in it."""
    modules = folder / "modules.json"
    if modules.exists() and "Pooling" in modules.read_text(encoding="utf-8", errors="replace"):
        raise ModelError(
            f"{folder} is a bi-encoder (its modules.json has a Pooling), not a cross-encoder: it cannot judge pairs. "
            "Name a sequence-classification model, or train one from this encoder with train-teacher."
        )


def relevance(logits: Tensor) -> Tensor:
    """Return [n] float32 relevance from a head of one logit, or of two (logit 1 minus logit 0)."""
    values = logits.float()
    return values[:, 0] if values.shape[1] == 1 else values[:, 1] - values[:, 0]


def _first_words(words: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the first word of each window, [b]; 0 where it has none. words [b, t, 2]."""
    has = words[..., 1] > words[..., 0]
    lowest = np.where(has, words[..., 0], np.iinfo(np.int32).max).min(axis=1)
    return np.where(has.any(axis=1), lowest, 0).astype(np.int32)


def _normalise(rows: Tensor) -> Tensor:
    """Let each row sum to 1; rows without mass stay zero."""
    return rows / rows.sum(dim=-1, keepdim=True).clamp(min=1e-30)
