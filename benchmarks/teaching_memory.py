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

from retort.resources import gentle_threads

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


def main() -> None:
    gentle_threads()
    from retort.corpus.lookup import Passages
    from retort.corpus.queries import QuerySet
    from retort.models.fakes import tiny_cross_encoder
    from retort.store import open_store
    from retort.store.schemas import CANDIDATE, PART_QUERIES, part_name
    from retort.teaching.score import ScoreConfig, score

    store_uri, corpus_uri, queries_uri, pairs = *sys.argv[1:4], int(sys.argv[4])
    store = open_store(store_uri)
    corpus, queries = store.get(corpus_uri, "corpus"), store.get(queries_uri, "queries")
    names = QuerySet.open(queries).ids[: -(-pairs // PER_QUERY)]
    ids = pa.concat_tables([corpus.part(part, columns=["passage_id"]) for part in corpus.parts()])["passage_id"]
    generator = np.random.default_rng(13)
    draft = store.draft("candidates", f"random-{pairs}", step="benchmark", inputs={"corpus": corpus, "queries": queries}, config={"pairs": pairs})  # fmt: skip
    candidates = draft.published
    if candidates is None:
        with draft:
            for number, start in enumerate(range(0, len(names), PART_QUERIES)):
                own = np.repeat(names[start : start + PART_QUERIES], PER_QUERY)
                drawn = ids.take(pa.array(generator.integers(0, len(ids), len(own))))
                ranks = np.tile(np.arange(PER_QUERY, dtype=np.int32), len(own) // PER_QUERY)
                columns = [pa.array(own, pa.string()), drawn.cast(pa.string()), pa.array(["random"] * len(own)), pa.array(ranks), pa.array(np.zeros(len(own), np.float32))]  # fmt: skip
                table = pa.Table.from_arrays(columns, schema=CANDIDATE)
                draft.write_table(part_name(number), table)
            candidates = draft.publish(rows=len(names) * PER_QUERY)
    watcher = Watcher()
    watcher.start()
    with tempfile.TemporaryDirectory(dir=Path(store.uri)) as scratch:
        # The corpus's own words as single tokens: a tiny tokenizer would cut them into characters, and passages into windows.
        counts = Counter(word for text in Passages.open(corpus).iter_texts() for word in WORD.findall(text.lower()))
        words = [word for word, _ in counts.most_common(VOCABULARY)]
        teacher = tiny_cross_encoder(Path(scratch) / "teacher", words, max_tokens=256)
        config = {"store": store.uri, "candidates": candidates.uri, "corpus": corpus.uri, "queries": queries.uri, "teacher": str(teacher), "name": f"memory-{pairs}"}  # fmt: skip
        made = score(ScoreConfig.validated(config))
    watcher.end()
    assert made.manifest.rows and made.manifest.rows > 0.95 * pairs, made.manifest.rows
    print(watcher.peak)


if __name__ == "__main__":
    main()
