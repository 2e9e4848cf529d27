"""A look's figures against trec_eval's, ties and several relevant passages included; shared by workers; as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from retort.errors import CorruptError
from retort.metrics.measures import evaluate
from retort.models.dual_encoder import DualEncoder
from retort.tuning.guard import Guard, GuardSettings, Look, prepare_guard
from retort.tuning.guard_data import Cell, GuardData
from retort.tuning.looks import MEASURES, Looker

from .worlds import GivenVectors, published_sections, tiny

QUERIES, PASSAGES, DIMENSION, CATEGORIES = 5, 40, 3, 3


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """Integer vectors (exact scores, many ties), 1-15 graded relevant passages per query, categories with holes."""
    numbers = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    passages = draw(st.integers(6, PASSAGES))
    relevant = [
        {
            int(place): int(numbers.integers(1, 4))
            for place in numbers.choice(passages, int(numbers.integers(1, min(15, passages))), replace=False)
        }
        for _ in range(QUERIES)
    ]
    return {
        "queries": numbers.integers(-2, 3, (QUERIES, DIMENSION)),
        "passages": numbers.integers(-2, 3, (passages, DIMENSION)),
        "codes": numbers.integers(-1, CATEGORIES, passages),
        "relevant": relevant,
    }


def data_of(case: dict[str, Any]) -> GuardData:
    """One cell with one level; a query is asked in the category of its first relevant passage."""
    passages = len(case["passages"])
    pairs = [pair for relevant in case["relevant"] for pair in relevant.items()]
    return GuardData(
        settings=GuardSettings(levels=("folder",)),
        similarity="inner_product",
        levels=("folder",),
        cells=(Cell("s", "de", "same", (0, passages), (0, QUERIES)),),
        query_ids=tuple(f"q{i}" for i in range(QUERIES)),
        clusters=tuple(f"q{i}" for i in range(QUERIES)),
        notes=(),
        vectors=case["passages"].astype(np.float16),
        codes=case["codes"].astype(np.int32)[:, None],
        tokens=np.arange(QUERIES, dtype=np.int32),
        offsets=np.arange(QUERIES + 1),
        entries=np.stack([np.arange(QUERIES)] * 2, axis=1).astype(np.int32),
        entry_codes=np.array([[case["codes"][next(iter(relevant))]] for relevant in case["relevant"]], dtype=np.int32),
        pairs=np.array(pairs, dtype=np.int32).reshape(-1, 2),
        pair_offsets=np.cumsum([0, *(len(relevant) for relevant in case["relevant"])]),
    )


def expected(case: dict[str, Any], query: int, candidates: list[int]) -> list[float]:
    """By trec_eval, which ranks equal scores by descending id: ids fall as rows grow."""

    def name(place: int) -> str:
        return f"p{9_999 - place}"

    scores = case["passages"] @ case["queries"][query]
    run = {"q": {name(place): float(scores[place]) for place in candidates}}
    qrels = {"q": {name(p): grade for p, grade in case["relevant"][query].items() if p in set(candidates)}}
    return [evaluate(run, qrels, MEASURES)[measure]["q"] for measure in MEASURES]


@given(cases(), st.sampled_from([(1 << 30, 1 << 22), (1 << 30, 7), (0, 50)]))
@settings(max_examples=60)
def test_figures_are_those_of_trec_eval(case: dict[str, Any], memory: tuple[int, int]) -> None:
    data = data_of(case)
    look = Looker(data, *memory).look(GivenVectors(case["queries"]))  # type: ignore[arg-type]
    everything = list(range(len(case["passages"])))
    by_level = {line.level: line.values for line in look.lines}
    for query in range(QUERIES):
        assert by_level["all"][query] == pytest.approx(expected(case, query, everything), abs=1e-6)
    taking_part = [query for query in range(QUERIES) if data.entry_codes[query, 0] >= 0]
    assert len(by_level.get("folder", [])) == len(taking_part)
    for place, query in enumerate(taking_part):
        inside = [p for p in everything if case["codes"][p] == data.entry_codes[query, 0]]
        assert by_level["folder"][place] == pytest.approx(expected(case, query, inside), abs=1e-6)


@pytest.fixture
def guard(tmp_path: Path) -> tuple[Guard, DualEncoder]:
    """A guard over sections in three languages, with levels and a target."""
    encoder = tiny(tmp_path / "base")
    made = published_sections(encoder)
    chosen = GuardSettings(levels=("module", "folder"), least_queries=10, least_recall=0.0)
    prepare_guard(chosen, [made], made, encoder, tmp_path / "guard", 13)
    return Guard.open(tmp_path / "guard"), encoder


def test_a_look_has_every_language_kind_and_level_with_its_means(guard: tuple[Guard, DualEncoder]) -> None:
    look = guard[0].look(guard[1])
    rows = look.means()
    assert {(row["language"], row["kind"], row["level"]) for row in rows} >= {
        (language, kind, level)
        for level in ("all", "module", "folder")
        for language, kind in (("en-us", "same"), ("de", "same"), ("de", "cross"), ("ja", "cross"))
    }
    by_level = {row["level"]: row["mrr@10"] for row in rows if (row["language"], row["kind"]) == ("de", "same")}
    assert by_level["all"] <= by_level["module"] <= by_level["folder"], "fewer candidates are easier"
    target = next(row for row in rows if row["kind"] == "target")
    assert look.target == target["mrr@10"]
    assert target["queries"] == 24, "only what asks for a passage of the pivot language is the target's"


def test_a_look_survives_json_to_the_last_bit(guard: tuple[Guard, DualEncoder]) -> None:
    look = guard[0].look(guard[1])
    again = Look.from_json(json.loads(json.dumps(look.to_json())))
    assert again.guard == look.guard
    for one, other in zip(look.lines, again.lines, strict=True):
        assert (one.set, one.language, one.kind, one.level) == (other.set, other.language, other.kind, other.level)
        assert np.array_equal(one.values, other.values)
    with pytest.raises(CorruptError, match="no look of the guard"):
        Look.from_json({"lines": []})


def test_the_same_encoder_gives_the_same_look_and_another_one_another(
    guard: tuple[Guard, DualEncoder], tmp_path: Path
) -> None:
    first, second = guard[0].look(guard[1]), guard[0].look(guard[1])
    assert first.to_json() == second.to_json()
    assert guard[0].look(tiny(tmp_path / "other", seed=5)).to_json() != first.to_json()


def _worker(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    try:
        look = Guard.open(Path(folder) / "guard").look(tiny(Path(folder) / "base"), rank, world)
        (Path(folder) / f"look-{rank}.json").write_text(json.dumps(look.to_json()))
    finally:
        dist.destroy_process_group()


def test_workers_share_a_look_and_all_get_it(guard: tuple[Guard, DualEncoder], tmp_path: Path) -> None:
    alone = guard[0].look(guard[1])
    mp.spawn(_worker, args=(2, str(tmp_path)), nprocs=2)
    first, second = (json.loads((tmp_path / f"look-{rank}.json").read_text()) for rank in range(2))
    assert first == second
    for one, other in zip(alone.lines, Look.from_json(first).lines, strict=True):
        # A text's vector depends in its last bits on what it is batched with, so a near tie may turn over.
        assert np.mean(np.abs(one.values - other.values) > 1e-9) < 0.02
