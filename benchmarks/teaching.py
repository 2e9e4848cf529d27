"""Teacher scoring on real data: how fast, how rough when fast, how much memory, and what a word map weighs.

    python benchmarks/teaching.py [--quick] [--json OUT] [--store FOLDER] [--only STAGE ...] [--again STAGE ...]

Stages: sentence, both, memory, ray_data, words.

The teacher is a MiniLM cross-encoder trained here on Debian's package descriptions. The peer is
`sentence_transformers.CrossEncoder.predict` on the same weights, pairs and threads. Neighbours: `teaching_words.py` (what
students learn from cut and from full word maps), `teaching_memory.py` (one scoring run, watched from outside).
Everything made is kept in --store, the rows of finished stages too: a run that was interrupted goes on.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from harness import ROOT, Clock, Report, Row, Stages, arguments, console, interleaved, ratio_row, timed
from scipy.stats import spearmanr
from teaching_data import Data, Pair
from teaching_words import add_word_bytes

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.metrics.measures import evaluate
from retort.metrics.significance import paired_bootstrap
from retort.models.cross_encoder import CrossEncoder
from retort.models.onnx_graph import Backend
from retort.resources import available_cores, limit_threads
from retort.store import Artefact
from retort.store.schemas import CANDIDATE, part_name
from retort.teaching.score import ScoreConfig, score
from retort.teaching.scorer import PartScorer, QueryTexts, TeacherJudge

PEER = "sentence-transformers"
TOKENS = 160
"""What the teacher was trained with: pairs that are longer are left out, as one side would read them in windows and the other cut them."""
BATCH_SIZES = (8, 16, 32, 64, 128)
SWEEPS = 2
FAST: dict[str, tuple[str, Backend]] = {
    "torch bf16": ("bf16", "torch"),
    "ONNX Runtime fp32": ("fp32", "onnx"),
    "ONNX Runtime int8": ("fp32", "onnx-int8"),
}
NDCG_LOSS = 0.005


# Sentence level -------------------------------------------------------------------------------------------------------------


class Peer:
    """sentence-transformers' cross-encoder, float32, at the batch size that was best here."""

    def __init__(self, folder: Path, pairs: Sequence[Pair]) -> None:
        import torch
        from sentence_transformers import CrossEncoder as Theirs

        self._model = Theirs(str(folder), max_length=TOKENS, device="cpu", activation_fn=torch.nn.Identity())
        found = interleaved({str(size): lambda size=size: _rate(lambda: self.predict(pairs, size), len(pairs)) for size in BATCH_SIZES}, SWEEPS)  # fmt: skip
        self.rates = {size: max(rates) for size, rates in found.items()}
        self.batch_size = int(max(self.rates, key=self.rates.__getitem__))

    def predict(self, pairs: Sequence[Pair], batch_size: int | None = None) -> Any:
        size = batch_size or self.batch_size
        return self._model.predict(list(pairs), batch_size=size, show_progress_bar=False)


def _rate(work: Callable[[], Any], pairs: int) -> float:
    return pairs / timed(work)


def add_sentence_level(report: Report, data: Data) -> None:
    """Rows sentence_fp32 and sentence_fast."""
    limit_threads(available_cores())
    pairs = data.pairs(96 if data.quick else 768, most_tokens=TOKENS)
    peer = Peer(data.teacher.local(), pairs[: len(pairs) // 3])
    plain = CrossEncoder.load(data.teacher.local(), precision="fp32", max_tokens=TOKENS)
    chosen = plain.use_backend("auto")
    difference = float(np.abs(plain.score(pairs) - np.asarray(peer.predict(pairs))).max())
    ranked = data.ranked_pairs(20 if data.quick else 250, most_tokens=TOKENS)
    exact = plain.score([pair for _, _, pair in ranked])
    before = _ndcg(data, ranked, exact)
    drifts: dict[str, Any] = {}
    models: dict[str, CrossEncoder] = {}
    for name, (precision, backend) in FAST.items():
        model = CrossEncoder.load(data.teacher.local(), precision=precision, max_tokens=TOKENS)
        model.use_backend(backend)
        models[name] = model
        drifts[name] = _drift(data, ranked, exact, before, model) | {
            "pairs_per_s": _rate(lambda model=model: model.score(pairs), len(pairs))
        }
        console.print(f"  {name}: {drifts[name]}")
    fit = {name: drift for name, drift in drifts.items() if drift["ndcg10_loss"] <= NDCG_LOSS}
    best = max(fit, key=lambda name: fit[name]["pairs_per_s"])
    sides = {
        "ours": lambda: _rate(lambda: plain.score(pairs), len(pairs)),
        PEER: lambda: _rate(lambda: peer.predict(pairs), len(pairs)),
        "fast": lambda: _rate(lambda: models[best].score(pairs), len(pairs)),
    }
    rates = interleaved(sides, 2 if data.quick else 5)
    row = ratio_row("sentence_fp32", "pairs/s", rates, PEER, at_least=1.2)
    row.note = (
        f"{len(pairs)} pairs, {available_cores()} threads, backend {chosen} (the faster here); largest difference of scores {difference:.1e} (target 1e-4); "
        f"the peer at batch size {peer.batch_size}, the best of {', '.join(map(str, BATCH_SIZES))}"
    )
    row.met = bool(row.met and difference <= 1e-4)
    report.add(row)
    row = ratio_row("sentence_fast", "pairs/s", {"ours": rates["fast"], PEER: rates[PEER]}, PEER, at_least=2.5)
    loss = fit[best]
    row.note = (
        f"{best}; scores drift by {loss['rms']:.3f} (root mean square; scores' own deviation {loss['deviation']:.2f}), rank correlation {loss['spearman']:.4f}; "
        f"nDCG@10 of {loss['queries']} test queries re-ranked {before[0]:.4f}, loss {loss['ndcg10_loss']:+.4f} ({loss['low']:+.4f} to {loss['high']:+.4f})"
    )
    report.add(row)
    report.add(
        Row("sentence_fast_ndcg10_loss", "nDCG@10", loss["ndcg10_loss"], low=loss["low"], high=loss["high"],
            target=f"<= {NDCG_LOSS}", met=loss["ndcg10_loss"] <= NDCG_LOSS)
    )  # fmt: skip
    report.details |= {"peer_batch_sizes": peer.rates, "backends": drifts, "score_difference": difference}


Ranked = list[tuple[str, str, Pair]]


def _ndcg(data: Data, ranked: Ranked, scores: np.ndarray) -> tuple[float, dict[str, float]]:
    run: dict[str, dict[str, float]] = {}
    for (query, passage, _), value in zip(ranked, scores, strict=True):
        run.setdefault(query, {})[passage] = float(value)
    qrels = {query: data.test.qrels[query] for query in run}
    values = evaluate(run, qrels, ["ndcg@10"])["ndcg@10"]
    return statistics.fmean(values.values()), values


def _drift(
    data: Data, ranked: Ranked, exact: np.ndarray, before: tuple[float, dict[str, float]], model: CrossEncoder
) -> dict[str, Any]:
    scores = model.score([pair for _, _, pair in ranked])
    _, values = _ndcg(data, ranked, scores)
    change = paired_bootstrap(before[1], values)  # what was lost
    return {
        "rms": float(np.sqrt(np.mean((scores - exact) ** 2))),
        "largest": float(np.abs(scores - exact).max()),
        "deviation": float(exact.std()),
        "spearman": float(spearmanr(scores, exact).statistic),
        "ndcg10_loss": change.mean,
        "low": change.low,
        "high": change.high,
        "queries": change.queries,
    }


# Both levels ----------------------------------------------------------------------------------------------------------------


def add_both_levels(report: Report, data: Data) -> None:
    """Row both_levels: logits and word maps from one forward pass, over logits alone."""
    limit_threads(available_cores())
    pairs = data.pairs(96 if data.quick else 768, most_tokens=TOKENS)
    model = CrossEncoder.load(data.teacher.local())
    sides = {
        "ours": lambda: _rate(lambda: model.judge(pairs), len(pairs)),
        "sentence level alone": lambda: _rate(lambda: model.score(pairs), len(pairs)),
    }
    rates = interleaved(sides, 2 if data.quick else 5)
    row = ratio_row("both_levels", "pairs/s", rates, "sentence level alone", at_least=0.7)
    row.note = f"precision {model.precision} (what is faster here), k = 8, mean over all heads of the last layer"
    report.add(row)


# Ray Data -------------------------------------------------------------------------------------------------------------------


def add_ray_data(report: Report, data: Data) -> None:
    """Row ray_data: the step `score` over a bare loop of the same scorer, parts, threads and niceness."""
    # Ray's workers run at niceness 15 by default, which on a shared machine is a handicap and not an overhead.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (the name that Ray reads)
    parts, pairs = (4, 64) if data.quick else (9, 384)
    repeats = 1 if data.quick else 3
    candidates = cut_candidates(data, parts, pairs)
    seconds = []

    def ray_data() -> float:
        clock = Clock()
        with tempfile.TemporaryDirectory() as store:
            mirror = data.mirrored(store, candidates)
            score(ScoreConfig.validated({"store": store, "candidates": mirror["candidates"], "corpus": mirror["corpus"], "queries": mirror["queries"], "teacher": mirror["teacher"], "resources": {"threads": 1}}), clock)  # fmt: skip
        seconds.append(clock.marks[-1][0] - clock.marks[0][0])
        return clock.rate

    rates = interleaved({"ours": ray_data, "bare loop": lambda: bare_loop(data, candidates)}, repeats)
    row = ratio_row("ray_data", "pairs/s", rates, "bare loop", at_least=0.95)
    row.note = (
        f"both levels, {parts} parts of about {pairs} pairs, one worker of one thread (two wait for each other where other work runs), {sum(seconds):.0f} s measured in all on Ray's side; "
        "start-up and the first part left out on both sides"
    )
    report.add(row)


def bare_loop(data: Data, candidates: Artefact) -> float:
    """Pairs/s of the same scorer called part by part, in this process."""
    limit_threads(1)
    judge = TeacherJudge(CrossEncoder.load(data.teacher.local()), word_level=True, top_k=8, layers=(), heads=(), token_budget=None)  # fmt: skip
    clock = Clock()
    with tempfile.TemporaryDirectory() as store:
        draft = data.scratch_draft(store)
        scorer = PartScorer(
            draft=draft, candidates=candidates, queries=QueryTexts(QuerySet.open(data.queries["test"])),
            passages=Passages.open(data.corpus), judge=judge,
        )  # fmt: skip
        for part in candidates.parts():
            clock.update(scorer(part)["pairs"])
    return clock.rate


def cut_candidates(data: Data, parts: int, pairs: int) -> Artefact:
    """The mined candidates of the test queries, in parts of the size that is timed."""
    draft = data.store.draft("candidates", f"timed-{parts}x{pairs}", step="benchmark", inputs={"candidates": data.test_candidates}, config={"parts": parts, "pairs": pairs})  # fmt: skip
    if draft.published is not None:
        return draft.published
    mined = data.test_candidates
    table = pa.concat_tables([mined.part(name) for name in mined.parts()])
    assert table.num_rows >= parts * pairs, (table.num_rows, parts, pairs)
    with draft:
        for number in range(parts):
            draft.write_table(part_name(number), table.slice(number * pairs, pairs).cast(CANDIDATE))
        return draft.publish(rows=parts * pairs)


# Memory ---------------------------------------------------------------------------------------------------------------------


def add_memory(report: Report, data: Data) -> None:
    """Row memory_growth: the largest memory of a scoring run of many pairs, over that of few."""
    few, many = (2_000, 8_000) if data.quick else (10_000, 200_000)
    peaks = {count: scoring_peak(data, count) for count in (few, many)}
    growth = peaks[many] / peaks[few]
    report.add(
        Row("memory_growth", "ratio", growth, target="<= 1.1", met=growth <= 1.1,
            note=f"summed PSS of all processes, Ray's included, at its largest: {peaks[few] / 2**20:.0f} MiB for {few:,} pairs, {peaks[many] / 2**20:.0f} MiB for {many:,}; "
            "the real corpus and the real queries, and a tiny random teacher, so that this many pairs take minutes; both levels")
    )  # fmt: skip


def scoring_peak(data: Data, pairs: int) -> float:
    """Largest summed PSS in bytes of a process that scores `pairs` pairs with a tiny teacher, and of its children."""
    command = [sys.executable, str(ROOT / "benchmarks" / "teaching_memory.py"), data.store.uri, data.corpus.uri, data.queries["train"].uri, str(pairs)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"teaching_memory.py ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    args = arguments("Scoring with a cross-encoder: speed, drift, memory, and the weight of word maps.", Stages.options)
    stages = Stages("teaching", args)
    data = Data(args.store, args.quick)
    stages.run("sentence", lambda report: add_sentence_level(report, data))
    stages.run("both", lambda report: add_both_levels(report, data))
    stages.run("memory", lambda report: add_memory(report, data))
    stages.run("ray_data", lambda report: add_ray_data(report, data))
    stages.run("words", lambda report: add_word_bytes(report, data))
    stages.report.finish(args.json)


if __name__ == "__main__":
    main()
