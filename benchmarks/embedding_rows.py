"""Embedding beside sentence-transformers, and Ray Data beside a bare loop.

Same weights, same threads, the same passages in the same order. sentence-transformers has the best of its batch sizes.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from harness import Clock, Report, Row, console, interleaved, ratio_row, timed
from search_rows import RealVectors

from retort.resources import available_cores, limit_threads

BATCH_SIZES = (8, 16, 32, 64, 128)
COSINE = 0.9999
MOST_LOST = 0.005
PART_ROWS = 768


def add_embedding(report: Report, real: RealVectors, quick: bool) -> None:
    """Rows embed_fp32, embed_cosine, embed_fast and embed_fast_loss."""
    from sentence_transformers import SentenceTransformer

    from retort.models.dual_encoder import DualEncoder

    limit_threads(available_cores())
    folder = real.embeddings.input("encoder").local()
    texts = _passages(real, 256 if quick else 1024)
    peer = SentenceTransformer(str(folder), device="cpu").float()
    exact, fast = DualEncoder.load(folder, precision="fp32"), DualEncoder.load(folder, precision="fp32")
    chosen = exact.use_backend("auto")
    exact.pack()  # as `retort embed` does
    fast.use_backend("onnx-int8")

    def theirs(size: int) -> np.ndarray:
        return peer.encode(texts, batch_size=size, normalize_embeddings=True, show_progress_bar=False)

    theirs(32), exact.encode(texts), fast.encode(texts)  # warm
    speeds = {size: len(texts) / timed(lambda size=size: theirs(size)) for size in BATCH_SIZES}
    size = max(speeds, key=lambda size: speeds[size])
    console.print(f"  sentence-transformers is fastest at batch size {size}")
    rates = interleaved(
        {
            "ours": lambda: len(texts) / timed(lambda: exact.encode(texts)),
            "int8": lambda: len(texts) / timed(lambda: fast.encode(texts)),
            "sentence-transformers": lambda: len(texts) / timed(lambda: theirs(size)),
        },
        3 if quick else 5,
    )
    note = f"{len(texts)} Debian descriptions, MiniLM, {available_cores()} threads, batch size {size} of {BATCH_SIZES}"
    report.add(
        ratio_row(
            "embed_fp32", "passages/s", rates, "sentence-transformers", at_least=1.2, note=f"{note}; ours: {chosen}"
        )
    )
    cosine = float((exact.encode(texts) * theirs(size)).sum(axis=1).min())
    report.add(
        Row(
            "embed_cosine",
            "least cosine",
            cosine,
            target=f"> {COSINE}",
            met=cosine > COSINE,
            note="of the same passages' vectors, ours fp32 against theirs",
        )
    )
    as_fast = {"ours": rates["int8"], "sentence-transformers": rates["sentence-transformers"]}
    report.add(
        ratio_row(
            "embed_fast", "passages/s", as_fast, "sentence-transformers", at_least=2.5, note=f"{note}; ours: onnx-int8"
        )
    )
    _add_loss(report, real, fast, quick)
    report.details["embedding"] = {"peer_by_batch_size": speeds, "rates": rates, "backend": chosen}


def _add_loss(report: Report, real: RealVectors, fast: Any, quick: bool) -> None:
    """nDCG@10 with passages embedded in int8, queries as ever."""
    from retort.corpus.lookup import Passages
    from retort.corpus.queries import QuerySet
    from retort.metrics.measures import evaluate
    from retort.metrics.significance import paired_bootstrap

    queries, corpus = QuerySet.open(real.made["test"]), Passages.open(real.made["corpus"])
    rows = np.arange(len(real.vectors))
    if quick:
        rows = np.random.default_rng(13).choice(rows, 2000, replace=False)
    ids = [str(name) for name in np.array(corpus.column("passage_id").to_pylist(), dtype=object)[rows]]
    known, asked = set(ids), []
    for place, name in enumerate(queries.ids):
        if any(passage in known for passage in queries.positives(name)):
            asked.append(place)
    vectors = np.concatenate(
        [fast.encode(_texts(corpus, part)) for part in np.array_split(rows, max(1, len(rows) // 4096))]
    )
    qrels = {
        queries.ids[place]: {p: g for p, g in queries.qrels[queries.ids[place]].items() if p in known}
        for place in asked
    }

    def ndcg(passages: np.ndarray) -> dict[str, float]:
        run = {}
        for start in range(0, len(asked), 256):
            scores = real.queries[asked[start : start + 256]] @ passages.T
            best = np.argpartition(-scores, 10, axis=1)[:, :10]
            for offset, own in enumerate(best):
                run[queries.ids[asked[start + offset]]] = {ids[at]: float(scores[offset, at]) for at in own}
        return evaluate(run, qrels, ["ndcg@10"])["ndcg@10"]

    found = paired_bootstrap(ndcg(real.vectors[rows]), ndcg(vectors))
    report.add(
        Row("embed_fast_loss", "nDCG@10", found.mean, low=found.low, high=found.high, target=f"<= {MOST_LOST}", met=found.mean <= MOST_LOST,
            note=f"fp32 less int8 passages, {found.queries:,} test queries over {len(rows):,} passages; p {found.p:.3g}")
    )  # fmt: skip


def add_ray_data(report: Report, real: RealVectors, store: str, quick: bool) -> None:
    """Row ray_data: passages/s of the job once its worker runs, over a bare loop on the same parts."""
    from retort.indexing.embedder import PartEmbedder
    from retort.models.dual_encoder import DualEncoder
    from retort.resources import Resources
    from retort.runtime.stages import map_parts
    from retort.store import open_store

    encoder = real.embeddings.input("encoder")
    corpus = _small_parts(store, real.made["corpus"], 3 if quick else 5)
    parts = corpus.parts()
    counts = {part: corpus.part(part, ["passage_id"]).num_rows for part in parts}
    opened = open_store(store)
    limit_threads(available_cores())
    loaded = DualEncoder.load(encoder.local(), precision="fp32").pack()

    def bare() -> float:
        draft = opened.draft("embeddings", "ray-data", step="benchmark", config={"at": time.time_ns()})
        worker = PartEmbedder(draft=draft, corpus=corpus, encoder=loaded)
        worker(parts[0])
        spent = timed(lambda: [worker(part) for part in parts[1:]])
        draft.discard()
        return sum(counts[part] for part in parts[1:]) / spent

    def by_ray() -> float:
        draft = opened.draft("embeddings", "ray-data", step="benchmark", config={"at": time.time_ns()})
        clock = Clock()
        map_parts(
            _Opened, {"draft": draft, "corpus": corpus, "encoder": encoder}, parts, Resources(), describe="embedding", progress=clock,
            weights={part: float(count) for part, count in counts.items()},
        )  # fmt: skip
        draft.discard()
        return clock.rate

    rates = interleaved({"ours": by_ray, "bare loop": bare}, 2 if quick else 3)
    report.add(
        ratio_row("ray_data", "passages/s", rates, "bare loop", at_least=0.95,
                  note=f"{len(parts) - 1} parts after the first, which is when the worker has started; torch fp32, {available_cores()} threads")
    )  # fmt: skip


def _small_parts(store: str, corpus: Any, count: int) -> Any:
    """The beginnings of the corpus's first parts, as a corpus: each part of seconds and not of minutes."""
    from retort.store import open_store
    from retort.store.schemas import part_name

    draft = open_store(store).draft(
        "corpus", "ray-data", step="benchmark", inputs={"corpus": corpus}, config={"parts": count}
    )
    if draft.published:
        return draft.published
    with draft:
        for number, part in enumerate(corpus.parts()[:count]):
            draft.write_table(part_name(number), corpus.part(part).slice(0, PART_ROWS))
        return draft.publish(rows=count * PART_ROWS, metrics={"passages": count * PART_ROWS})


class _Opened:
    """A part worker that loads the encoder in its actor."""

    def __init__(self, draft: Any, corpus: Any, encoder: Any) -> None:
        from retort.indexing.embedder import PartEmbedder
        from retort.models.dual_encoder import DualEncoder

        loaded = DualEncoder.load(encoder.local(), precision="fp32").pack()
        self._work = PartEmbedder(draft=draft, corpus=corpus, encoder=loaded)

    def __call__(self, part: str) -> dict[str, Any]:
        return self._work(part)


def _passages(real: RealVectors, count: int) -> list[str]:
    from retort.corpus.lookup import Passages

    corpus = Passages.open(real.made["corpus"])
    return _texts(corpus, np.sort(np.random.default_rng(13).choice(len(corpus), count, replace=False)))


def _texts(corpus: Any, rows: np.ndarray) -> list[str]:
    from retort.corpus.passages import passage_text

    return [passage_text(record["title"], record["text"]) for record in corpus.records_at(rows.tolist())]
