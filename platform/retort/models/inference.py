"""How a dual encoder's body is run to encode: in which backend, with or without padding, its weights laid out for it or not.

Training knows nothing of this: it goes through the model itself. Letters: b texts, t tokens, d dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from retort.models.backend import Precision, autocast, default_token_budget
from retort.models.batching import pad, token_batches
from retort.models.flat import Body, lay_out
from retort.models.layout import Layout
from retort.models.onnx_graph import Backend, OnnxGraph, check_backend, faster_backend, onnx_graph
from retort.models.pooling import pool, pool_spans
from retort.models.unpadded import Unpadded, packs

__all__ = ["Inference"]

OUTPUT: Literal["last_hidden_state"] = "last_hidden_state"


class Inference:
    """A body on its device. At first it runs in torch, and without padding on a GPU in bfloat16."""

    def __init__(self, model: PreTrainedModel, precision: Precision, pad_id: int) -> None:
        self._model, self._precision, self._pad_id = model, precision, pad_id
        self.backend: Backend = "torch"
        self._graph: OnnxGraph | None = None
        self._laid_out: Body | None = None
        self._unpadded: Unpadded | None = None
        self._padding_chosen = False

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    def use_backend(self, backend: Backend | Literal["auto"]) -> Backend:
        """Run in this backend, with the weights as they are now; returns the one chosen. Errors as `check_backend`."""
        self.must_be_whole()
        chosen: Backend = (
            faster_backend(self._model, OUTPUT, self._precision, packed=True) if backend == "auto" else backend
        )
        check_backend(chosen, self._device)
        graph = None if chosen == "torch" else onnx_graph(self._model, OUTPUT, int8=chosen == "onnx-int8")
        self.backend, self._graph = chosen, graph
        return chosen

    def use_padding(self, padding: bool) -> bool:
        """Pad texts to the longest of their batch, or lay them end to end where the model can; returns whether it pads now."""
        self._padding_chosen, self._unpadded = True, None
        if not padding and self._laid_out is None:
            with autocast(self._precision, self._device):
                self._unpadded = Unpadded.of(self._model, self._pad_id)
        return self._unpadded is None

    def pack(self, *, half_weights: bool = False) -> None:
        """Lay the weights out, where that is of use: on a CPU, in torch, with padding. `half_weights` as `FlatBody.of`."""
        if (
            self.backend == "torch"
            and self._device.type == "cpu"
            and self._laid_out is None
            and self._end_to_end() is None
        ):
            self._laid_out = lay_out(self._model, self._precision, half_weights=half_weights)

    def must_be_whole(self) -> None:
        """Where the weights themselves are needed."""
        assert self._laid_out is None, (
            "packed for inference: load the encoder again to train, save, digest or export it"
        )

    def forget_weights(self) -> None:
        """The weights are about to change: leave the graph that was made of them."""
        self.must_be_whole()
        self.backend, self._graph = "torch", None

    def vectors(
        self, rows: Sequence[Sequence[int]], layout: Layout, token_budget: int | None
    ) -> Iterator[tuple[Sequence[int] | NDArray[np.int64], NDArray[np.float32]]]:
        """Batch by batch: numbers of rows, and their vectors [b, d] float32.

        To be consumed in eval mode, within inference_mode and autocast: a generator cannot hold these contexts itself.
        """
        device = self._device
        budget = token_budget or default_token_budget(device)
        lengths = [len(row) for row in rows]
        unpadded = self._end_to_end() if min(lengths, default=0) else None
        if unpadded is not None:
            for together in packs(lengths, budget):
                states, ends = unpadded.states([rows[i] for i in together])  # [tokens, d]
                found = pool_spans(states, ends, layout.pooling, layout.normalise)
                yield together, found.cpu().numpy()
            return
        for batch in token_batches(lengths, budget):
            ids, mask = pad([rows[i] for i in batch], self._pad_id, device)  # [b, t]
            found = pool(self._states(ids, mask), mask, layout.pooling, layout.normalise)
            yield batch, found.cpu().numpy()

    def _end_to_end(self) -> Unpadded | None:
        if self._graph is not None:
            return None
        if not self._padding_chosen:
            self.use_padding(self._device.type != "cuda" or self._precision != "bf16")
        return self._unpadded

    def _states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[b, t, d] of ids and mask [b, t], in the backend in use."""
        if self._graph is not None:
            return self._graph({"input_ids": ids, "attention_mask": mask})
        if self._laid_out is not None:
            return self._laid_out(ids, mask)
        states: Tensor = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states
