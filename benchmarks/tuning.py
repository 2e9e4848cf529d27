"""Adiabatic tuning on real data: English sections of an office suite's help teach, 20 languages and XQuAD are guarded.

    python benchmarks/tuning.py [--quick] [--json OUT] [--store FOLDER]

Finds the adiabatic limit on the dev queries, tunes at it, and looks at the result once on test queries that nothing was
chosen from. Does it again with `output.dense.weight` frozen. Times tuning against a trainer that encodes passages too.
Everything made is an artefact in --store: a run that was interrupted goes on, a second one is quick.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import real_data
from harness import SHARED, Report, Row, arguments, console, interleaved, need, ratio_row

from retort.corpus.ingest import IngestConfig, ingest
from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.indexing.embed import EmbedConfig, embed
from retort.indexing.vectors import VectorStore
from retort.metrics.significance import paired_bootstrap
from retort.models.dual_encoder import DualEncoder
from retort.resources import available_cores, limit_threads
from retort.store import Artefact, open_store
from retort.terminal import TerminalProgress
from retort.tuning.batches import BatchMaker
from retort.tuning.course import Course
from retort.tuning.freezing import freeze_weights
from retort.tuning.guard import Guard, GuardSettings, Judgement, Look, prepare_guard
from retort.tuning.prepare import prepare
from retort.tuning.trainer import TuneTrainer
from retort.tuning.training_set import TrainingSet
from retort.tuning.tune import NoSafePointError, TuneConfig, tune

ENCODER = SHARED / "models" / "minilm-l6-multilingual"
QUICK_LANGUAGES = ("en-us", "de", "fr", "ja")
FROZEN = {"embeddings": ("embeddings",), "embeddings and output.dense.weight": ("embeddings", "output.dense.weight")}
progress = TerminalProgress(console)


class Data:
    """Collections, their stored vectors, and the untuned encoder."""

    def __init__(self, store: str, quick: bool) -> None:
        self.store, self.quick = store, quick
        name = "office-help-quick" if quick else "office-help"
        with tempfile.TemporaryDirectory() as folder:
            source = need(SHARED / "office-help")
            if quick:
                for lang in QUICK_LANGUAGES:
                    shutil.copy(source / f"{lang}.jsonl.gz", folder)
                source = Path(folder)
            self.office = self._ingest(name, source, ["MPL-2.0"])
        with tempfile.TemporaryDirectory() as folder:
            self.xquad = self._ingest("xquad", real_data.xquad(Path(folder)), ["CC-BY-SA-4.0"])
        self.office_vectors = self._embed(self.office["corpus"])
        self.xquad_vectors = self._embed(self.xquad["corpus"])

    def _ingest(self, name: str, source: Path, licences: list[str]) -> dict[str, Artefact]:
        config = {
            "name": name,
            "source": str(source),
            "files_are_languages": True,
            "licences": licences,
            "store": self.store,
        }
        extra = {"make_queries": False} if name == "xquad" else {"split_documents": "never"}
        return ingest(IngestConfig.validated({**config, **extra}), progress)

    def _embed(self, corpus: Artefact) -> Artefact:
        config = {
            "corpus": corpus.uri,
            "encoder": str(need(ENCODER)),
            "name": f"{corpus.name}-vectors",
            "store": self.store,
        }
        return embed(EmbedConfig.validated(config), progress)


def tuned(data: Data, frozen: tuple[str, ...], name: str) -> Artefact | None:
    """The encoder tuned at the rate that the sweep finds; None where no rate was safe."""
    config = {
        "store": data.store,
        "name": name,
        "embeddings": data.office_vectors.uri,
        "queries": data.office["train"].uri,
        "query_languages": ["en-us"],
        "dev_queries": data.office["dev"].uri,
        "guard_queries": [data.office["dev"].uri],
        "guard": {"levels": ["module", "folder"], "looks": 2 if data.quick else 4},
        "frozen": frozen,
        "epochs": 1,
        "sweep": {"start": 4e-7, "factor": 4, "trials": 4 if data.quick else 8, "refine": 0 if data.quick else 1},
    }
    try:
        return tune(TuneConfig.validated(config), progress)
    except NoSafePointError as error:
        console.print(f"{name}: {error}")
        return None


class Test:
    """One look at test queries, from which nothing was chosen."""

    def __init__(
        self, queries: Artefact, vectors: Artefact, base: DualEncoder, folder: Path, levels: tuple[str, ...]
    ) -> None:
        settings = GuardSettings.model_validate({"levels": levels})
        prepare_guard(settings, [(queries, vectors)], (queries, vectors), base, folder, 13)
        self.guard = Guard.open(folder)
        self.before = self.guard.look(base)

    def judged(self, encoder: DualEncoder) -> tuple[Judgement, Look]:
        after = self.guard.look(encoder)
        return self.guard.judge(self.before, after, looks=1), after

    def english(self, after: Look) -> tuple[dict[str, float], dict[str, float]]:
        """Reciprocal ranks by query, of the tuned encoder and the base."""
        both = [look.target_values for look in (after, self.before)]
        return tuple({str(i): float(value) for i, value in enumerate(values)} for values in both if values is not None)


def add_quality(report: Report, data: Data, encoder: Artefact, folder: Path) -> None:
    """Rows on test queries."""
    base = DualEncoder.load(ENCODER)
    query_encoder = DualEncoder.load(encoder.local())
    office = Test(data.office["test"], data.office_vectors, base, folder / "office", ("module", "folder"))
    judgement, after = office.judged(query_encoder)
    gain = paired_bootstrap(*office.english(after))
    report.add(
        Row("english_gain_mrr10", "MRR@10", gain.mean, low=gain.low, high=gain.high, target="> 0, p < 0.05",
            met=gain.mean > 0 and gain.p < 0.05, note=f"p = {gain.p:.4f} on {gain.queries:,} test queries; base {office.before.target:.4f}")
    )  # fmt: skip
    add_languages(report, "languages_not_kept", judgement)
    other = Test(data.xquad["test"], data.xquad_vectors, base, folder / "xquad", ())
    distant, _ = other.judged(query_encoder)
    add_languages(report, "xquad_languages_not_kept", distant)
    change = judgement.mean_language_change
    report.add(
        Row("mean_language_change", "MRR@10", change, target=">= 0", met=change is not None and change >= 0,
            note=f"over the office help's languages other than English; on XQuAD {distant.mean_language_change:+.4f}")
    )  # fmt: skip
    report.details |= {"office_test": judgement.to_json(), "xquad_test": distant.to_json()}


def add_languages(report: Report, name: str, judgement: Judgement) -> None:
    states = {group.name: group.state for group in judgement.languages.values()}
    lost = [language for language, state in states.items() if state in ("fell", "unclear")]
    report.add(
        Row(name, "languages", len(lost), target="= 0", met=not lost and judgement.all_kept, note=judgement.summary)
    )


def add_sweep(report: Report, made: dict[str, Artefact | None]) -> None:
    """Rows on the search for the rate."""
    limits = {}
    for label, encoder in made.items():
        rows = encoder.metrics["sweep"] if encoder is not None else []
        report.details[f"sweep, frozen: {label}"] = rows
        limits[label] = max((row["rate"] for row in rows if row["safe"]), default=None)
    first = made["embeddings"]
    rows = first.metrics["sweep"] if first is not None else []
    damaging = [row["rate"] for row in rows if row["damaging"] and row["stopped_at"] is not None]
    report.add(
        Row("damaging_rate_found", "rate", min(damaging, default=None), target="found", met=bool(damaging),
            note="the lowest rate at which a language fell; the guard ended that trial by itself")
    )  # fmt: skip
    plain, frozen = limits["embeddings"], limits.get("embeddings and output.dense.weight")
    ratio = frozen / plain if plain and frozen else None
    report.add(
        Row("safe_rate_with_output_dense_frozen", "rate", frozen, plain, "not frozen", ratio,
            note="highest safe rate of each sweep; above 1: freezing widens the safe range, as the paper says")
    )  # fmt: skip
    if first is not None:
        moved = first.metrics["moved"]
        report.add(
            Row("weights_moved", "share", moved, target="> 0.5", met=moved > 0.5,
                note=f"at rate {first.metrics['rate']:.3g} after {first.metrics['steps']} steps; median {first.metrics['median_ulps']:.0f} units in the last place")
        )  # fmt: skip
        wait = first.metrics["data_wait_share"]
        report.add(
            Row("data_wait_share", "share", wait, target="<= 0.02", met=wait <= 0.02, note="of the time in steps")
        )


# Speed ---------------------------------------------------------------------------------------------------------------------


def add_speed(report: Report, data: Data, folder: Path) -> None:
    """Steps/s of tuning over stored vectors, against one that encodes positives and negatives in each step."""
    limit_threads(available_cores())
    steps, repeats = (4, 3) if data.quick else (10, 5)
    ours = bare_tuning(data, folder)
    peer = EncodingTrainer(data)

    def rate(step) -> float:
        step()
        began = time.perf_counter()
        for _ in range(steps):
            step()
        return steps / (time.perf_counter() - began)

    rates = interleaved({"ours": lambda: rate(ours.step), "sentence-transformers": lambda: rate(peer.step)}, repeats)
    report.add(
        ratio_row("tuning_vs_encoding_passages", "steps/s", rates, "sentence-transformers", at_least=5,
                  note="32 queries a step with one positive and one negative each, triplet loss on cosines, embeddings frozen, float32")
    )  # fmt: skip


def bare_tuning(data: Data, folder: Path) -> TuneTrainer:
    """Our trainer, without Ray and guard."""
    encoder = DualEncoder.load(ENCODER, precision="fp32", max_tokens={"query": 64})
    freeze_weights(encoder.model, ("embeddings",))
    queries = QuerySet.open(data.office["train"])
    english = [name for name, lang in zip(queries.ids, queries.langs, strict=True) if lang == "en-us"]
    vectors = VectorStore.open(data.office_vectors)
    training, _ = prepare(
        queries=queries.subset(english[:1024]), passages=Passages.open(data.office["corpus"]), vectors=vectors, encoder=encoder,
        judgements=None, most_queries=1024, hard_depth=20, false_negative_cut=None, seed=13,
    )  # fmt: skip
    training.save(folder / "training")
    batches = BatchMaker(
        TrainingSet.open(folder / "training"), vectors, batch_queries=32, negatives=1, random_share=0.0, loss="triplet",
        padding=int(encoder.tokenizer.pad_token_id or 0), seed=13, forward_tokens=1024,
    )  # fmt: skip
    course = Course(
        steps=10_000, batch_queries=32, negatives=1, random_share=0.0, loss="triplet", margin=0.1, temperature=0.05, teacher_temperature=1.0,
        learning_rate=1e-6, warmup_steps=0, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, clip_norm=None, master="float64", look_at=(),
        planned_looks=1, guarded=False, seed=13, forward_tokens=1024, precision="fp32",
    )  # fmt: skip
    return TuneTrainer(encoder, batches, course, None)


class EncodingTrainer:
    """The same step in sentence-transformers: model, TripletLoss and AdamW, passages encoded with the same weights."""

    def __init__(self, data: Data) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.losses import TripletDistanceMetric, TripletLoss

        self._model = SentenceTransformer(str(ENCODER), device="cpu").float()
        for name, weight in self._model.named_parameters():
            weight.requires_grad_("embeddings" not in name.split("."))
        self._loss = TripletLoss(self._model, TripletDistanceMetric.COSINE, triplet_margin=0.1)
        trained = [weight for weight in self._model.parameters() if weight.requires_grad]
        self._optimiser = torch.optim.AdamW(trained, lr=1e-6, weight_decay=0.0)
        queries, passages = QuerySet.open(data.office["train"]), Passages.open(data.office["corpus"])
        english = [name for name, lang in zip(queries.ids, queries.langs, strict=True) if lang == "en-us"][:1024]
        self._queries = queries.subset(english).texts
        self._positives = passages.texts([queries.positives(name)[0] for name in english])
        self._generator = np.random.default_rng(13)

    def step(self) -> None:
        import torch

        chosen = self._generator.integers(0, len(self._queries), 32)
        others = self._generator.integers(0, len(self._queries), 32)
        texts = (
            [self._queries[i] for i in chosen],
            [self._positives[i] for i in chosen],
            [self._positives[i] for i in others],
        )
        features = [self._model.preprocess(batch) for batch in texts]
        self._optimiser.zero_grad()
        self._loss(features, torch.zeros(32)).backward()
        self._optimiser.step()


def main() -> None:
    args = arguments("Adiabatic tuning: what it gains, what it keeps, and how fast it is.")
    need(ENCODER)
    report = Report("quick" if args.quick else "full")
    data = Data(open_store(args.store).uri, args.quick)
    suffix = "-quick" if args.quick else ""
    made = {label: tuned(data, frozen, f"tuned-{len(frozen)}{suffix}") for label, frozen in FROZEN.items()}
    with tempfile.TemporaryDirectory() as folder:
        first = made["embeddings"]
        if first is not None:
            add_quality(report, data, first, Path(folder))
        add_sweep(report, made)
        add_speed(report, data, Path(folder))
    report.finish(args.json)


if __name__ == "__main__":
    main()
