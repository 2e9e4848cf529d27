"""The benchmark's records: places say the measures that the run says, and only what belongs together is put together."""

from __future__ import annotations

import importlib
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.evaluation.findings import QueryFacts
from retort.metrics.measures import evaluate
from retort.mining.candidates import query_sample
from retort.mining.mine import MineConfig
from retort.store import open_store

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
QUERIES = 60
TEACHER = {"digest": "t1", "metrics": {"ndcg": 0.5}}


@pytest.fixture
def bench(monkeypatch):
    """The benchmark's modules, which import each other by their bare names."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("plan", "records", "report", "tested", "seeds", "grid", "data")
    return SimpleNamespace(**{name: importlib.import_module(f"distillation_{name}") for name in names})


@pytest.fixture
def tests(bench):
    ids = tuple(f"q{number}" for number in range(QUERIES))
    facts = {
        query: QueryFacts(passage_words=place, section=f"s{place % 2}", lang="", origin="")
        for place, query in enumerate(ids)
    }
    return bench.tested.Tested(ids, {query: f"p-{query}" for query in ids}, facts)


@pytest.fixture
def plan(bench):
    return replace(bench.plan.QUICK, seeds=(13, 1), reranked_queries=20)


def made_run(qrels, seed=0):
    """Rankings with ties, of up to 100 passages, some without the relevant one."""
    draw = random.Random(seed)
    run = {}
    for query, grades in qrels.items():
        passages = [f"x{number}" for number in range(99)] + (list(grades) if draw.random() < 0.8 else [])
        run[query] = {passage: float(draw.randrange(30)) for passage in passages}
    return run


def whole(bench, plan, tests, seed, teacher=TEACHER):
    record = bench.records.begin(None, plan, tests, seed, teacher, 1.0)
    for number, system in enumerate(bench.records.SYSTEMS):
        queries = tests.sample(plan.reranked_queries) if system == bench.records.TEACHER else tests.ids
        places = [(place * (number + seed)) % 101 for place in range(len(queries))]
        record.cells[system] = bench.records.Cell(places=places, seconds=2.0, step_s=0.5)
    counts = {"total": 10, "duplicate": 2, "sibling": 3, "either": 4}
    record.filtered = bench.records.Filtered(dropped=counts, kept={**counts, "total": 90})
    record.search = {recipe.name: {"learning_rate": 1e-4} for recipe in bench.plan.ROWS}
    return record


def test_places_say_what_the_run_says(bench, tests):
    records = bench.records
    run = made_run(tests.qrels)
    places = records.places_of(run, tests.qrels)
    assert list(places) == list(tests.ids) and 0 in places.values() and max(places.values()) > 50
    found = records.scores_of(list(places.values()), tests.ids)
    expected = evaluate(run, tests.qrels, records.MEASURES)
    for measure in records.MEASURES:
        assert found[measure] == pytest.approx(expected[measure], abs=0), measure


def test_places_need_one_relevant_passage_of_grade_1(bench):
    for grades in ({"a": 1, "b": 1}, {"a": 2}, {}):
        with pytest.raises(AssertionError, match="one relevant"):
            bench.records.places_of({"q": {"a": 1.0}}, {"q": grades})


def test_a_record_comes_back_as_it_was_written(bench, plan, tests, tmp_path):
    record = whole(bench, plan, tests, 13)
    record.cells["both"].places[:3] = [0, 1, 100]
    text = record.save(tmp_path).read_text()
    assert '"01' in text and text.isascii()
    assert bench.records.read_records(tmp_path, plan, tests) == {13: record}
    assert record.complete and [path.name for path in tmp_path.iterdir()] == ["seed-13.json"]


def test_a_record_of_the_full_size_is_small(bench, tmp_path):
    draw = random.Random(0)
    ids = tuple(f"q{number}" for number in range(5294))
    tests = bench.tested.Tested(ids, {query: query for query in ids}, {})
    record = whole(bench, bench.plan.FULL, tests, 13)
    for cell in record.cells.values():
        cell.places = [min(100, int(1 / (1 - draw.random()))) for _ in cell.places]
    assert record.save(tmp_path).stat().st_size < 60_000


def test_a_record_of_another_plan_or_other_queries_is_left_out_and_said(bench, plan, tests, tmp_path, capsys):
    whole(bench, plan, tests, 13).save(tmp_path)
    read = bench.records.read_records
    assert read(tmp_path, replace(plan, taught=plan.taught + 1), tests) == {}
    assert "its plan is not that of this run" in " ".join(capsys.readouterr().out.split())
    assert read(tmp_path, plan, replace(tests, ids=tests.ids[1:])) == {}
    assert "test queries" in capsys.readouterr().out
    assert list(read(tmp_path, replace(plan, seeds=(13, 1, 2)), tests)) == [13], "a further seed changes nothing"


def test_a_part_of_a_record_goes_on_with_its_own_teacher_only(bench, plan, tests):
    begin, other = bench.records.begin, {**TEACHER, "digest": "t2"}
    record = whole(bench, plan, tests, 13)
    assert begin(record, plan, tests, 13, other, 1.0) is record, "whole: it stands for itself"
    del record.cells["word"]
    assert begin(record, plan, tests, 13, TEACHER, 1.0) is record
    anew = begin(record, plan, tests, 13, other, 1.0)
    assert anew.teacher == "t2" and anew.cells == {} and not anew.complete


def test_a_later_seed_says_which_comes_first(bench, plan, tests, tmp_path, monkeypatch):
    monkeypatch.setattr(bench.seeds, "Data", lambda store, plan: SimpleNamespace(tests=tests))
    part = whole(bench, plan, tests, 13)
    del part.cells["word"]
    part.save(tmp_path)
    with pytest.raises(SystemExit, match="run --seeds 13 first"):
        bench.seeds.go_on(plan, "nowhere", tmp_path, [1], bench.records.SYSTEMS, 1.0)


class FakeGrid:
    """Cells without training: `calls` notes which were made, `ends_at` stands for a killed run."""

    calls: ClassVar[list[tuple[int, str]]] = []
    ends_at = ""
    whole: ClassVar[dict] = {}

    def __init__(self, data, seed, searched):
        self.data, self.seed, self.plan, self.searched = data, seed, data.plan, searched
        self.teacher = SimpleNamespace(digest=f"teacher {seed}", metrics={})

    @property
    def cells(self):
        return {name: lambda name=name: self._made(name) for name in self.whole[self.seed].cells}

    def _made(self, name):
        if name == self.ends_at:
            raise KeyboardInterrupt
        self.calls.append((self.seed, name))
        return self.whole[self.seed].cells[name].places

    def values(self, recipe):
        return dict(self.searched[recipe.name]) if self.searched else {"learning_rate": 3e-4}

    def rounds(self, recipe):
        return [SimpleNamespace(student=SimpleNamespace(metrics={"training_s": 4.0, "steps": 2}))]

    def filtered(self):
        return self.whole[self.seed].filtered


def test_a_killed_run_goes_on_with_the_next_cell_and_a_done_one_makes_nothing(
    bench, plan, tests, tmp_path, monkeypatch
):
    monkeypatch.setattr(bench.seeds, "Data", lambda store, plan: SimpleNamespace(tests=tests, plan=plan))
    monkeypatch.setattr(bench.seeds, "Grid", FakeGrid)
    monkeypatch.setattr(FakeGrid, "calls", [])
    monkeypatch.setattr(FakeGrid, "whole", {seed: whole(bench, plan, tests, seed) for seed in plan.seeds})
    monkeypatch.setattr(FakeGrid, "ends_at", "word")

    def run():
        FakeGrid.calls.clear()
        bench.seeds.go_on(plan, "nowhere", tmp_path, plan.seeds, bench.records.SYSTEMS, 1.0)

    with pytest.raises(KeyboardInterrupt):
        run()
    before = [name for _, name in FakeGrid.calls]
    assert "word" not in before and before
    monkeypatch.setattr(FakeGrid, "ends_at", "")
    run()
    systems = bench.records.SYSTEMS
    assert [name for seed, name in FakeGrid.calls if seed == 13] == [name for name in systems if name not in before]
    assert [name for seed, name in FakeGrid.calls if seed == 1] == list(systems[2:]), "BM25 and the base have no seed"
    found = bench.records.read_records(tmp_path, plan, tests)
    assert all(record.complete for record in found.values())
    assert found[1].search == found[13].search and found[1].cells["both"].step_s == 2.0
    run()
    assert FakeGrid.calls == []


def test_two_processes_write_one_record(bench, plan, tests, tmp_path):
    ours, theirs = (whole(bench, plan, tests, 13) for _ in range(2))
    theirs.filtered = None
    for name in bench.records.SYSTEMS:
        del (theirs if name in ("both", "both_filtered", bench.records.TEACHER) else ours).cells[name]
    del ours.search["word"], theirs.search["both"]
    theirs.save(tmp_path)
    ours.save(tmp_path)
    found, expected = bench.records.read_records(tmp_path, plan, tests)[13], whole(bench, plan, tests, 13)
    assert found.complete
    assert (found.cells, found.search, found.filtered) == (expected.cells, expected.search, expected.filtered)
    anew = bench.records.begin(None, plan, tests, 13, {**TEACHER, "digest": "t2"}, 1.0)
    anew.save(tmp_path)
    assert bench.records.read_records(tmp_path, plan, tests)[13].cells == {}, "those of another teacher"


def test_only_the_systems_asked_for_are_made(bench, plan, tests, tmp_path, monkeypatch):
    monkeypatch.setattr(bench.seeds, "Data", lambda store, plan: SimpleNamespace(tests=tests, plan=plan))
    monkeypatch.setattr(bench.seeds, "Grid", FakeGrid)
    monkeypatch.setattr(FakeGrid, "calls", [])
    monkeypatch.setattr(FakeGrid, "whole", {13: whole(bench, plan, tests, 13)})
    bench.seeds.go_on(plan, "nowhere", tmp_path, [13], ["sentence", "word"], 1.0)
    assert sorted(FakeGrid.calls) == [(13, "sentence"), (13, "word")]
    assert not bench.records.read_records(tmp_path, plan, tests)[13].complete


def test_the_report_needs_records_alone(bench, plan, tests, tmp_path):
    for seed in plan.seeds:
        whole(bench, plan, tests, seed).save(tmp_path)
    report = importlib.import_module("harness").Report("quick")
    records = bench.records.read_records(tmp_path, plan, tests)
    bench.report.add_cost(report, records, plan)
    bench.report.add_results(report, records, tests, plan)
    rows = {row.name: row for row in report.rows}
    assert {"both_filtered_minus_contrastive_mrr10", "both_filtered_minus_sentence_mrr10", "both_filtered_minus_word_mrr10",
            "both_filtered_p", "gap_closed", "filter_precision", "seconds_per_step"} <= set(rows)  # fmt: skip
    assert rows["filter_precision"].ours == pytest.approx(0.4) and rows["filter_precision"].peer == pytest.approx(
        4 / 90
    )
    assert "hours_left" not in rows and set(report.details["seeds"]) == {"13", "1"}
    one = [records[seed].scores("both", tests, plan)["mrr@10"] for seed in plan.seeds]
    mean = sum(sum(scores.values()) for scores in one) / (2 * QUERIES)
    assert report.details["systems"]["both"]["mrr@10"][0] == pytest.approx(mean)


def test_debian_has_one_relevant_passage_a_query(bench, shared_data):
    found = bench.tested.tested(bench.plan.FULL)
    assert len(found.ids) == len(found.relevant) == 5294


def test_only_rows_with_a_level_learn_from_queries_without_a_label(bench):
    learns = {recipe.name: recipe.settings({})["use_unlabelled"] for recipe in bench.plan.ROWS}
    assert learns.pop("contrastive") is False and set(learns.values()) == {True}


def test_taught_queries_lose_their_labels_but_for_some(bench, tmp_path, shared_data):
    data = bench.data.Data(str(tmp_path), replace(bench.plan.QUICK, taught=40, labelled=10))
    train, taught = QuerySet.open(data.made["train"]), QuerySet.open(data.taught)
    assert len(taught) == 40 and len(taught.labelled) == 10
    assert set(taught.ids).isdisjoint(
        query_sample(train, data.plan.teacher_queries, MineConfig.model_fields["seed"].default).ids
    )
    for query in taught.ids:
        assert taught.texts[taught.positions[query]] == train.texts[train.positions[query]]
        assert taught.qrels.get(query, train.qrels[query]) == train.qrels[query]
    positives = {passage for query in taught.ids for passage in train.positives(query)}
    part = set(Passages.open(data.part).ids)
    assert positives <= part, "what the whole collection would show them"
    assert len(part) < len(data.passages) / 2
    again = bench.data.Data(str(tmp_path), data.plan)
    assert again.taught.digest == data.taught.digest


def test_judgements_of_an_earlier_row_are_taken_only_from_this_teacher_judging_in_the_same_way(bench, tmp_path):
    store = open_store(str(tmp_path))

    def made(name, teacher, **config):
        with store.draft(
            "judgements", name, step="score", inputs={"teacher": teacher}, config={"layers": [], **config}
        ) as draft:
            draft.write_json("word_layers.json", name)
            return draft.publish()

    def teacher(name):
        with store.draft("teacher", name, step="test", config={"name": name}) as draft:
            draft.write_json("weights.json", name)
            return draft.publish()

    ours, other = teacher("ours"), teacher("other")
    grid = SimpleNamespace(data=SimpleNamespace(store=store), teacher=ours, judgements=made("first", ours, top_k=8))
    alike = made("alike", ours, top_k=8)
    made("otherwise", ours, top_k=4)
    made("elsewhere", other, top_k=8)
    found = {name: bench.grid.Grid._known(grid, name) for name in ("alike", "otherwise", "elsewhere", "nothing")}
    assert found == {"alike": alike, "otherwise": None, "elsewhere": None, "nothing": None}
