"""One training step and the largest memory that its process took; started by `training.py`.

    python benchmarks/training_memory.py QUERIES CHUNK_TOKENS     prints bytes: the largest resident memory over that before the step

A process of its own, so that nothing that another step left behind is counted. The student is small (6 layers, 64 dimensions)
so that 8,192 passages take a minute; its activations and the losses' tables are in the same proportion to texts and batch as a
large one's.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from retort.resources import available_cores, limit_threads, share_the_machine

PASSAGES = 8  # of each query
TOKENS = {"query": 16, "passage": 128}


def texts(generator: np.random.Generator, count: int, tokens: int):
    from retort.distillation.training_set import Texts, lists_of

    rows = [generator.integers(5, 200, tokens, dtype=np.int32) for _ in range(count)]
    return Texts(tokens=lists_of(rows), words=lists_of([np.zeros(0, np.int32)] * count))


def training_set(queries: int):
    """Queries with one positive and seven hard negatives of their own, all judged."""
    from retort.distillation.training_set import TrainingSet, lists_of

    generator = np.random.default_rng(13)
    rows = np.arange(queries * PASSAGES, dtype=np.int32).reshape(queries, PASSAGES)
    return TrainingSet(
        query_ids=[f"q{i}" for i in range(queries)],
        passage_ids=[f"p{i}" for i in range(rows.size)],
        queries=texts(generator, queries, TOKENS["query"]),
        passages=texts(generator, rows.size, TOKENS["passage"]),
        positives=lists_of(rows[:, :1]),
        pool=lists_of(rows[:, 1:]),
        known=lists_of(rows[:, :1]),
        judged=lists_of(rows),
        scores=generator.normal(size=rows.size).astype(np.float32),
        trust=np.ones(rows.size, np.float32),
        places=np.full(rows.size, -1, np.int32),
        groups=np.arange(queries, dtype=np.int64),
        vectors=None,
    )


def main() -> None:
    share_the_machine()
    from retort.distillation.collate import Collator
    from retort.distillation.course import Course
    from retort.distillation.fakes import small_course
    from retort.distillation.trainer import DistilTrainer
    from retort.models.dual_encoder import DualEncoder
    from retort.models.fakes import tiny_encoder

    queries, chunk_tokens = int(sys.argv[1]), int(sys.argv[2])
    limit_threads(available_cores())
    changes = {
        "batch_queries": queries, "negatives": PASSAGES - 1, "chunk_tokens": chunk_tokens, "forward_tokens": 1024, "word_weight": 0.0, "steps": 2,
    }  # fmt: skip
    course = Course(**{**asdict(small_course()), **changes})
    with tempfile.TemporaryDirectory() as folder:
        words = [f"w{i}" for i in range(220)]
        base = tiny_encoder(Path(folder) / "base", words, dimension=64, layers=6, max_tokens=TOKENS["passage"])
        student = DualEncoder.load(base, device="cpu", precision="fp32")
        data = training_set(queries)
        collator = Collator(data, padding=0, chunk_tokens=chunk_tokens, forward_tokens=1024, word_targets=None)
        with DistilTrainer(student, data, course, collator, None) as trainer:
            before = _largest()
            trainer.step()
            print(_largest() - before)


def _largest() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
