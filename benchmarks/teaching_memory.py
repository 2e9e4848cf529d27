"""One scoring run with a tiny teacher, and the largest memory that its processes took together; started by `teaching.py`.

    python benchmarks/teaching_memory.py STORE CORPUS QUERIES PAIRS     prints bytes (summed PSS)

A process of its own, so that nothing that another row left behind is counted.
"""

from __future__ import annotations

import re
import sys
import tempfile
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from retort.resources import share_the_machine

share_the_machine()

from stored import copied  # noqa: E402

from retort.corpus.lookup import Passages  # noqa: E402
from retort.corpus.queries import QuerySet  # noqa: E402
from retort.models.fakes import tiny_cross_encoder  # noqa: E402
from retort.store import Artefact, Store, open_store  # noqa: E402
from retort.store.schemas import CANDIDATE, PART_QUERIES, part_name  # noqa: E402
from retort.teaching.score import ScoreConfig, score  # noqa: E402

PER_QUERY = 8
VOCABULARY = 20_000
WORD = re.compile(r"[a-z]{2,}")
INTERVAL_S = 1.0


class Watcher(threading.Thread):
    """Samples the summed PSS of this process and its descendants."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            own = psutil.Process()
            total = 0
            for process in [own, *own.children(recursive=True)]:
                with suppress(psutil.Error):
                    total += process.memory_full_info().pss
            self.peak = max(self.peak, total)

    def end(self) -> None:
        self._ended.set()
        self.join()


def random_candidates(store: Store, corpus: Artefact, queries: Artefact, pairs: int) -> Artefact:
    """So many random pairs, eight to a query."""
    names = QuerySet.open(queries).ids[: -(-pairs // PER_QUERY)]
    ids = pa.concat_tables([corpus.part(part, columns=["passage_id"]) for part in corpus.parts()])["passage_id"]
    generator = np.random.default_rng(13)
    with store.draft("candidates", "random", step="benchmark", inputs={"corpus": corpus, "queries": queries}) as draft:
        for number, start in enumerate(range(0, len(names), PART_QUERIES)):
            own = np.repeat(names[start : start + PART_QUERIES], PER_QUERY)
            drawn = ids.take(pa.array(generator.integers(0, len(ids), len(own)))).cast(pa.string())
            ranks = np.tile(np.arange(PER_QUERY, dtype=np.int32), len(own) // PER_QUERY)
            scores = pa.array(np.zeros(len(own), np.float32))
            columns = [pa.array(own, pa.string()), drawn, pa.array(["random"] * len(own)), pa.array(ranks), scores]
            draft.write_table(part_name(number), pa.Table.from_arrays(columns, schema=CANDIDATE))
        return draft.publish(rows=len(names) * PER_QUERY)


def tiny_teacher(corpus: Artefact, folder: Path) -> Path:
    """Random weights, and the corpus's own words as single tokens: a tiny tokenizer would cut them into characters, and passages into windows."""
    counts = Counter(word for text in Passages.open(corpus).iter_texts() for word in WORD.findall(text.lower()))
    words = [word for word, _ in counts.most_common(VOCABULARY)]
    return tiny_cross_encoder(folder, words, max_tokens=256)


def main() -> None:
    given, corpus_uri, queries_uri, pairs = open_store(sys.argv[1]), *sys.argv[2:4], int(sys.argv[4])
    # A store of its own, in which nothing is scored yet.
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"{folder}/store")
        corpus = copied(given.get(corpus_uri, "corpus"), store)
        queries = copied(given.get(queries_uri, "queries"), store)
        candidates = random_candidates(store, corpus, queries, pairs)
        watcher = Watcher()
        watcher.start()
        teacher = tiny_teacher(corpus, Path(folder) / "teacher")
        config = {
            "store": store.uri,
            "candidates": candidates.uri,
            "corpus": corpus.uri,
            "queries": queries.uri,
            "teacher": str(teacher),
        }
        made = score(ScoreConfig.validated(config))
        watcher.end()
    assert made.manifest.rows and made.manifest.rows > 0.95 * pairs, made.manifest.rows
    print(watcher.peak)


if __name__ == "__main__":
    main()
