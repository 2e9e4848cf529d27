"""One training step and the largest memory that its process took; started by `training.py`.

    python benchmarks/training_memory.py QUERIES CHUNK_TOKENS     prints bytes: the largest resident memory over that before the step

A process of its own, so that nothing that another step left behind is counted. All three losses are on, with the default weight of
the word level. The student is small (6 layers, 64 dimensions) so that 8,192 passages take a minute; its activations and the losses'
tables are in the same proportion to texts and batch as a large one's.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path

import numpy as np

from retort.resources import available_cores, limit_threads, share_the_machine

PASSAGES = 8  # of each query
TOKENS = {"query": 16, "passage": 128}
MAP_WORDS = 12
"""Passage words kept in a teacher's map: the union of each query word's 8 largest is a little more than 8."""


def texts(generator: np.random.Generator, count: int, tokens: int):
    """Random tokens; each but the first and the last is a word."""
    from retort.distillation.training_set import Texts, lists_of

    rows = [generator.integers(5, 200, tokens, dtype=np.int32) for _ in range(count)]
    starts = np.arange(tokens - 2)
    words = np.concatenate([[(0, 0)], np.stack([starts, starts + 1], axis=1), [(0, 0)]]).reshape(-1)
    return Texts(tokens=lists_of(rows), words=lists_of([words] * count))


def training_set(queries: int):
    """Queries with one positive and seven hard negatives of their own, all judged, with word maps."""
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
        places=np.tile(np.arange(PASSAGES, dtype=np.int32), queries),
        groups=np.arange(queries, dtype=np.int64),
        vectors=None,
    )


def judgements(data, path: Path):
    """Made-up judgements of the training set's pairs, in a file at `path`."""
    import pyarrow as pa

    from retort.models.judgements import Judgements
    from retort.models.word_maps import WordMap
    from retort.store.schemas import JUDGEMENT

    generator = np.random.default_rng(13)
    query_words, passage_words = TOKENS["query"] - 2, TOKENS["passage"] - 2

    def word_map() -> bytes:
        return WordMap(
            query_words=query_words, first=0, stop=passage_words,
            words=np.sort(generator.choice(passage_words, MAP_WORDS, replace=False)).astype(np.int32),
            to_passage=generator.dirichlet(np.ones(MAP_WORDS), query_words).astype(np.float32),
            to_query=generator.dirichlet(np.ones(query_words), MAP_WORDS).astype(np.float32),
        ).to_bytes()  # fmt: skip

    rows = [
        {"query_id": query, "passage_id": data.passage_ids[passage], "content_hash": "", "score": 0.0, "window": 0, "trust": 1.0, "word_map": word_map()}
        for number, query in enumerate(data.query_ids)
        for passage in data.judged[number]
    ]  # fmt: skip
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, JUDGEMENT) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=JUDGEMENT))
    return Judgements(path)


def main() -> None:
    share_the_machine()
    from retort.distillation.collate import Collator
    from retort.distillation.config import DistilConfig
    from retort.distillation.fakes import small_course
    from retort.distillation.trainer import DistilTrainer
    from retort.distillation.word_targets import WordTargets
    from retort.models.dual_encoder import DualEncoder
    from retort.models.fakes import tiny_encoder

    queries, chunk_tokens = int(sys.argv[1]), int(sys.argv[2])
    limit_threads(available_cores())
    course = small_course(
        batch_queries=queries, negatives=PASSAGES - 1, chunk_tokens=chunk_tokens, forward_tokens=1024, steps=2,
        word_weight=DistilConfig.model_fields["word_weight"].default,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        words = [f"w{i}" for i in range(220)]
        base = tiny_encoder(Path(folder) / "base", words, dimension=64, layers=6, max_tokens=TOKENS["passage"])
        student = DualEncoder.load(base, device="cpu", precision="fp32")
        data = training_set(queries)
        targets = WordTargets(judgements(data, Path(folder) / "judgements.arrow"))
        collator = Collator(data, padding=0, chunk_tokens=chunk_tokens, forward_tokens=1024, word_targets=targets)
        with DistilTrainer(student, data, course, collator, None) as trainer:
            before = _largest()
            trainer.step()
            print(_largest() - before)


def _largest() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
