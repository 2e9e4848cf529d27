"""Gradient caching: the gradient of a large batch in the memory of a small one (Gao et al., arXiv 2101.06983).

A loss over many vectors needs all of them at once, but not their activations. So each chunk is encoded twice: first
without a graph, for its vectors only; the loss over all vectors gives the gradient at each vector; then each chunk is
encoded again with a graph, through which those gradients flow. A query stays with its passages in one chunk, so that the
word-level loss, which needs token states of both, is added in that second pass. Dropout draws the same masks in both.

The gradients equal those of the batch in one piece; with one chunk, on every worker, there is only one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, TypeVar

import torch
from torch import Tensor

__all__ = ["Encoded", "RandomState", "backward_in_chunks"]


class Encoded(Protocol):
    """What a chunk becomes: vectors, and whatever its own loss needs."""

    @property
    def vectors(self) -> Tensor:
        """[texts of the chunk, dim]: what the loss over the whole batch sees."""


ChunkT = TypeVar("ChunkT")
EncodedT = TypeVar("EncodedT", bound=Encoded)


class RandomState:
    """The random generators of the CPU and of a device, as they were when this was made."""

    def __init__(self, device: torch.device) -> None:
        """Remember the generators of `device` and of the CPU."""
        self._device = device
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw the same random numbers once more; afterwards the generators go on from where they were."""
        devices = [self._device] if self._cuda is not None else []
        with torch.random.fork_rng(devices=devices):
            torch.set_rng_state(self._cpu)
            if self._cuda is not None:
                torch.cuda.set_rng_state(self._cuda, self._device)
            yield


def backward_in_chunks(
    chunks: Sequence[ChunkT],
    encode: Callable[[ChunkT], EncodedT],
    loss_of_vectors: Callable[[list[Tensor]], Tensor],
    loss_of_chunk: Callable[[ChunkT, EncodedT], Tensor | None],
    *,
    cached: bool,
    device: torch.device,
    synchronised: Callable[[bool], AbstractContextManager[None]] = lambda last: nullcontext(),
) -> None:
    """Add to the parameters' gradients those of loss_of_vectors(all vectors) + sum of loss_of_chunk(chunk).

    Args:
        chunks: parts of the batch, at least one; workers may have different numbers of them.
        encode: a chunk's forward pass.
        loss_of_vectors: called once, with the vectors of each chunk; its graph ends at these vectors.
        loss_of_chunk: called where a chunk's token states are at hand; None where there is nothing to add.
        cached: whether to encode twice; False only for one chunk. Workers must agree: data parallelism exchanges something
            in the first forward pass with a graph after the first step, which with one pass comes before what
            `loss_of_vectors` exchanges, and with two passes behind it.
        device: whose random generators the forward pass draws from.
        synchronised: context for the forward and backward pass of a chunk, told whether it is the last one (where workers
            exchange gradients).
    """
    if not cached:
        assert len(chunks) == 1, "several chunks go through twice"
        with synchronised(True):
            encoded = encode(chunks[0])
            loss = loss_of_vectors([encoded.vectors])
            extra = loss_of_chunk(chunks[0], encoded)
            (loss if extra is None else loss + extra).backward()  # type: ignore[no-untyped-call]
        return
    leaves: list[Tensor] = []
    states: list[RandomState] = []
    with torch.no_grad():
        for chunk in chunks:
            states.append(RandomState(device))
            leaves.append(encode(chunk).vectors.detach().requires_grad_())
    loss_of_vectors(leaves).backward()  # type: ignore[no-untyped-call]
    for i, (chunk, leaf, state) in enumerate(zip(chunks, leaves, states, strict=True)):
        with synchronised(i == len(chunks) - 1), state.again():
            encoded = encode(chunk)
            gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            # A scalar whose gradient at each vector is the cached one.
            surrogate = (encoded.vectors * gradient).sum()
            extra = loss_of_chunk(chunk, encoded)
            (surrogate if extra is None else surrogate + extra).backward()  # type: ignore[no-untyped-call]
