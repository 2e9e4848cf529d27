"""What a stored word map weighs, and whether a student notices that it was cut: row word_bytes_per_pair."""

from __future__ import annotations

import statistics

import numpy as np
import pyarrow as pa
from harness import Report, Row, console
from teaching_data import Data, progress

from retort.distillation.config import DistilConfig
from retort.distillation.distil import distil
from retort.metrics.measures import evaluate
from retort.metrics.significance import paired_bootstrap, seed_mean
from retort.models.dual_encoder import DualEncoder
from retort.store import Artefact
from retort.teaching.score import ScoreConfig, score

CUT, WHOLE = 8, 255
SEEDS = (13, 1)
"""Noise is a difference whose interval holds 0, or that is smaller than the one between two seeds of the same student."""


def add_word_bytes(report: Report, data: Data) -> None:
    """Bytes of a pair's map as stored, and MRR@10 of students that learnt from contrast and word maps alone."""
    judged = {k: _judged(data, k) for k in (CUT, WHOLE)}
    sizes = {k: _mean_bytes(judgements) for k, judgements in judged.items()}
    seeds = SEEDS[:1] if data.quick else SEEDS
    by_seed = {k: [_quality(data, _student(data, judgements, k, seed)) for seed in seeds] for k, judgements in judged.items()}  # fmt: skip
    found = {k: seed_mean(values) for k, values in by_seed.items()}
    change = paired_bootstrap(found[CUT], found[WHOLE])
    means = {k: statistics.fmean(values.values()) for k, values in found.items()}
    of_seed = [statistics.fmean(values.values()) for values in by_seed[WHOLE]]
    spread = max(of_seed) - min(of_seed)
    noise = change.low <= 0 <= change.high or change.mean > 0 or abs(change.mean) <= spread
    report.add(
        Row("word_bytes_per_pair", "bytes", sizes[CUT], sizes[WHOLE], f"k = {WHOLE}", sizes[WHOLE] / sizes[CUT], target="<= 200, student within noise",
            met=sizes[CUT] <= 200 and noise,
            note=f"k = {CUT}; MRR@10 of students that learn by contrast and word maps alone ({len(seeds)} seeds, {change.queries:,} test queries in a pool of "
            f"{len(_pool(data)):,} passages): {means[CUT]:.4f} with cut maps, {means[WHOLE]:.4f} with full ones, difference {change.mean:+.4f} ({change.low:+.4f} to {change.high:+.4f}); two seeds of the latter differ by {spread:.4f}")
    )  # fmt: skip
    report.details["word_maps"] = {"bytes": sizes, "mrr10": means, "difference": [change.low, change.mean, change.high]}


def _judged(data: Data, k: int) -> Artefact:
    config = {"candidates": data.train_candidates.uri, "corpus": data.corpus.uri, "queries": data.queries["train"].uri, "teacher": data.teacher.uri, "top_k": k}  # fmt: skip
    return score(ScoreConfig.validated({**config, "name": f"debian-words-{k}", "store": data.store.uri}), progress)


def _mean_bytes(judgements: Artefact) -> float:
    maps = pa.concat_tables([judgements.part(part, columns=["word_map"]) for part in judgements.parts()])["word_map"]
    return statistics.fmean(len(one) for one in maps.to_pylist() if one is not None)


def _student(data: Data, judgements: Artefact, k: int, seed: int) -> Artefact:
    config = {
        "base": "minilm",
        "corpus": data.corpus.uri,
        "queries": data.queries["train"].uri,
        "judgements": judgements.uri,
        "sentence_weight": 0.0,
        "word_weight": 1.0,
        "use_unjudged": False,
        "batch_queries": 16,
        "max_passage_tokens": 96,
        "max_steps": 6 if data.quick else 64,
        "seed": seed,
    }
    name = f"debian-words-{k}-{seed}"
    return distil(DistilConfig.validated({**config, "name": name, "store": data.store.uri}), progress)


def _pool(data: Data) -> list[str]:
    """Every passage that is a candidate of a test query."""
    mined = data.test_candidates
    return sorted(
        {id_ for part in mined.parts() for id_ in mined.part(part, columns=["passage_id"]).column(0).to_pylist()}
    )


def _quality(data: Data, student: Artefact) -> dict[str, float]:
    """Reciprocal rank at 10 of each mined test query, searching the pool exactly."""
    encoder = DualEncoder.load(student.local())
    ids = _pool(data)
    mined = data.test_candidates
    asked = sorted({id_ for part in mined.parts() for id_ in mined.part(part, columns=["query_id"]).column(0).to_pylist()})  # fmt: skip
    text_of = dict(zip(data.test.ids, data.test.texts, strict=True))
    console.print(f"  {student.name}: {len(asked)} queries over {len(ids)} passages")
    passages = encoder.encode(data.passages.texts(ids), "passage")  # [passages, dim]
    scores = encoder.encode([text_of[id_] for id_ in asked], "query") @ passages.T  # [queries, passages]
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    run = {
        query: {ids[place]: float(row[place]) for place in places}
        for query, row, places in zip(asked, scores, best, strict=True)
    }
    return dict(evaluate(run, {query: data.test.qrels[query] for query in asked}, ["mrr@10"])["mrr@10"])
