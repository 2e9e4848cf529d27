"""CPUs, GPUs, workers and threads: the one model that every stage's config uses.

Nothing here reads the machine at import; `Resources.resolve` does, when a step starts.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_NICENESS = 10


@dataclass(frozen=True)
class Allotment:
    """Concrete numbers for one stage on this machine or cluster."""

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    threads: int


class Resources(BaseModel):
    """How many workers a stage uses and what each of them gets. Unset fields follow the machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int = Field(1, ge=1, description="Number of worker processes (Ray actors or Ray Train workers).")
    cpus_per_worker: float | None = Field(
        None, gt=0, description="CPUs that Ray reserves for each worker; may be a fraction. Default: half a CPU."
    )
    gpus_per_worker: float | None = Field(
        None,
        ge=0,
        description="GPUs for each worker; may be a fraction. Default: one where this machine has any, else none: "
        "give it where only other nodes of the cluster have them.",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="Threads of torch and FAISS in each worker. Default: the machine's cores over the workers.",
    )

    def resolve(self) -> Allotment:
        """Fill what is unset from the machine this runs on."""
        gpus = self.gpus_per_worker
        if gpus is None:
            gpus = 1.0 if gpu_count() > 0 else 0.0
        # Half a CPU: a pool that reserves every CPU leaves none for Ray Data's read tasks and waits for ever.
        return Allotment(
            workers=self.workers,
            cpus_per_worker=self.cpus_per_worker or 0.5,
            gpus_per_worker=gpus,
            threads=self.threads or max(1, available_cores() // self.workers),
        )


def available_cores() -> int:
    """Cores this process may run on (respects affinity masks and therefore most containers)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_count() -> int:
    """CUDA devices visible to this process."""
    import torch

    return torch.cuda.device_count()


def share_the_machine() -> None:
    """Settings under which a process shares cores and memory with others; call it before torch is imported, and before Ray starts workers.

    Waiting OpenMP threads sleep instead of spin: Ray's own processes share the cores, threads that spin at each barrier then wait for one
    that is not running, and a training step takes two to three times as long.

    oneDNN keeps few of the kernels that it makes for each shape: batches cut by tokens have a hundred shapes, whose kernels took 200 MB of a
    scoring worker; made anew they take no measurable time.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


@contextmanager
def threads_of(resources: Resources) -> Iterator[None]:
    """Work in this process with the threads that a worker would have; torch's number is put back afterwards."""
    import torch

    before = torch.get_num_threads()
    limit_threads(resources.resolve().threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def give_back_memory() -> None:
    """Hand memory that was freed back to the system, where the C library can (glibc): between parts of very different sizes it would pile up."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def limit_threads(threads: int) -> None:
    """Set the thread counts of torch, FAISS and the tokenizers of this process, explicitly and in one place.

    Ray sets `OMP_NUM_THREADS=1` for workers with fractional CPUs, which would leave cores idle.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    # Only where it is loaded already: indexing/faiss_library.py is the one place that imports it.
    faiss: Any = sys.modules.get("faiss")
    if faiss is not None:
        faiss.omp_set_num_threads(threads)


def give_way() -> None:
    """Lower the priority of the calling thread (Linux counts niceness per thread): it loads, while others answer or wait for answers."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
