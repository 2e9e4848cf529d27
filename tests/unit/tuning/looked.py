"""Looks with a known change in each language, and a whole report made of them; no encoder is needed."""

from __future__ import annotations

from typing import Any

import numpy as np

from retort.tuning.guard import Guard, GuardSettings, Look
from retort.tuning.guard_data import Cell, GuardData, Kind
from retort.tuning.looks import Values

RECALL = 0.6


def made(
    sizes: dict[str, int],
    change: dict[str, float],
    *,
    recall: dict[str, float] | None = None,
    slice_change: dict[str, float] | None = None,
    spread: float = 0.12,
    seed: int = 0,
    target: int = 0,
) -> tuple[Guard, Look, Look]:
    """A guard over languages with `sizes` queries of both kinds; reciprocal ranks change by `change` on average.

    Query i is the same query in every language; half of them are in the slice "folder".
    """
    rng = np.random.default_rng(seed)
    asked: list[tuple[str, Kind]] = [(language, kind) for language in sizes for kind in ("same", "cross")]
    counts = [sizes[language] for language, _ in asked] + ([target] if target else [])
    edges = np.cumsum([0, *counts]).tolist()
    cells = [Cell("set", language, kind, (0, 1), (a, b)) for (language, kind), a, b in zip(asked, edges, edges[1:])]
    if target:
        cells.append(Cell("target", "en", "target", (0, 1), (edges[-2], edges[-1])))
    numbers = np.concatenate([np.arange(count) for count in counts]).astype(np.int32)
    most = max(counts)
    data = GuardData(
        settings=GuardSettings(levels=("folder",)),
        similarity="cosine",
        levels=("folder",),
        cells=tuple(cells),
        query_ids=tuple(f"q{i}" for i in range(most)),
        clusters=tuple(f"q{i}" for i in range(most)),
        notes=(),
        vectors=np.zeros((1, 2), dtype=np.float16),
        codes=np.zeros((1, 1), dtype=np.int32),
        tokens=np.zeros(0, dtype=np.int32),
        offsets=np.zeros(1, dtype=np.int64),
        entries=np.stack([numbers, numbers], axis=1),
        entry_codes=np.where(numbers % 2 == 0, 0, -1)[:, None].astype(np.int32),
        pairs=np.zeros((0, 2), dtype=np.int32),
        pair_offsets=np.zeros(len(numbers) + 1, dtype=np.int64),
        digest="d" * 64,
    )
    guard = Guard(data)
    shared = rng.normal(0, spread, most)  # how a query moves in all languages together
    before, after = [], []
    for line in guard.lines:
        cell = line.cell
        which = data.entries[line.entries, 1]
        old = rng.random(len(which))
        wanted = change.get(cell.language, 0.0)
        if line.level == "folder":
            wanted += (slice_change or {}).get(cell.language, 0.0)
        moved = 0.7 * shared[which] + 0.7 * rng.normal(0, spread, len(which))
        moved += wanted - moved.mean()
        hit = np.full(len(which), (recall or {}).get(cell.language, RECALL))
        before.append(Values(cell.set, cell.language, cell.kind, line.level, np.stack([old, old, hit], axis=1)))
        after.append(Values(cell.set, cell.language, cell.kind, line.level, np.stack([old + moved, old, hit], axis=1)))
    return guard, Look(data.digest, tuple(before)), Look(data.digest, tuple(after))


SIZES = {
    "en-us": 355, "cs": 354, "da": 350, "de": 354, "el": 354, "es": 319, "fi": 183, "fr": 348, "hi": 51, "it": 354, "ja": 195, "ko": 194,
    "nl": 354, "pl": 267, "pt-br": 354, "ru": 209, "sv": 199, "tr": 238, "vi": 176, "zh-cn": 235,
}  # fmt: skip


def synthetic_report(
    change: float = 0.006,
    worst: dict[str, float] | None = None,
    *,
    sizes: dict[str, int] | None = None,
    unguarded: bool = False,
) -> dict[str, Any]:
    """The value of a report.json: every language changed by `change`, those in `worst` otherwise."""
    sizes = SIZES if sizes is None else sizes
    moved = {language: change + 0.002 * (number % 4 - 1) for number, language in enumerate(sizes)} | (worst or {})
    guard, before, after = made(sizes, moved | {"en": 0.014}, spread=0.05, target=355)
    judgement = guard.judge(before, after, looks=36)
    sweep = []
    for number, (gain, low) in enumerate(
        [(0.001, -0.001), (0.004, -0.004), (0.014, -0.0105), (0.021, -0.019), (0.026, -0.034)]
    ):
        safe, damaging = number < 3, number == 4
        sweep.append(
            {"rate": 1e-7 * 4**number, "steps": 800, "stopped_at": None if safe else 400, "safe": safe, "damaging": damaging,
             "damaged": ["ja", "ja/folder", "ko", "vi", "th/module"] if damaging else [], "target_change": gain, "mean_language_change": gain / 3,
             "worst_language": "ja/folder", "worst_low": low, "moved": min(0.999, 0.3 + 0.2 * number), "median_ulps": 40.0 * 4**number, "summary": ""}
        )  # fmt: skip
    looks = [
        {
            "step": step,
            "target": 0.356,
            "judgement": judgement.to_json(rows=False) | {"target_change": gain, "worst_low": low},
        }
        for step, gain, low in (
            (200, 0.006, -0.006),
            (400, 0.010, -0.008),
            (600, 0.0125, -0.010),
            (800, 0.014, -0.0105),
        )
    ]
    return {
        "name": "minilm-l6-multilingual-tuned",
        "base": "encoder/minilm-l6-multilingual (0a1b2c3d4e5f)",
        "embeddings": "embeddings/office-help (5f4e3d2c1b0a)",
        "passage_space": "5d" * 32,
        "rate": 1.6e-6,
        "rate_found": True,
        "steps": 800,
        "planned_steps": 800,
        "stopped_at": None,
        "loss": "triplet",
        "frozen": ["embeddings"],
        "movement": {
            "weights": 10_646_784, "moved": 0.8312, "median_ulps": 212.0, "p99_ulps": 18_433.0, "max_ulps": 912_345, "largest_change": 3.1e-4,
            "groups": {"encoder.layer.*.attention.output.LayerNorm.weight": 0.41, "encoder.layer.*.output.dense.weight": 0.912},
        },
        "looks": [] if unguarded else looks,
        "before": [] if unguarded else before.means(),
        "after": [] if unguarded else after.means(),
        "judgement": None if unguarded else judgement.to_json(),
        "sweep": sweep,
        "vectors": {"digest_before": "ab" * 32, "digest_after": "ab" * 32, "files": 20},
        "unguarded": unguarded,
        "warnings": ["Set <office-help.dev> has no labelled query in th, though its corpus has passages in it: it guards nothing there."],
        "settings": {"loss": "triplet", "margin": 0.1, "learning_rate": "auto", "master": "float64", "clip_norm": None,
                     "guard": {"margin": 0.015, "levels": ["module", "folder"]}, "english_only": True},
    }  # fmt: skip
