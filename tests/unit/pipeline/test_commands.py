"""What `retort run` tells before any work is done, and what it shows after it."""

import json

import pytest

from retort.cli import main
from retort.pipeline.runner import PipelineRun
from retort.store import open_store

AUDIT = "audit: {job: audit, teachers: [t], corpus: c, queries: q, candidates: k}"
EVALUATE = (
    "table: {job: evaluate, corpus: c, queries: q, base_index: b, student_encoder: e, student_index: i, teacher: t}"
)


REPORT = {
    "systems": [], "examples": [], "queries": {"count": 1}, "corpus": {"passages": 2}, "relevance": {"text": "by qrels"},
}  # fmt: skip


@pytest.fixture
def plan(tmp_path):
    """Writes a pipeline of these steps; returns its path."""

    def write(*steps):
        path = tmp_path / "p.yaml"
        path.write_text("name: p\nsteps:\n" + "".join(f"  {step}\n" for step in steps))
        return str(path)

    return write


@pytest.fixture
def not_run(monkeypatch):
    monkeypatch.setattr("retort.pipeline.commands.run_pipeline", lambda *_: pytest.fail("the pipeline was run"))


def test_a_report_of_a_pipeline_without_an_evaluate_step_is_refused_before_the_run(plan, not_run, tmp_path, capsys):
    assert main(["run", plan(AUDIT), "--report", str(tmp_path / "out.json")]) == 2
    assert "no evaluate step" in capsys.readouterr().err and not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("place", ["", "nowhere/out.json", "x" * 300])
def test_a_report_that_cannot_be_written_is_refused_before_the_run(plan, not_run, tmp_path, capsys, place):
    assert main(["run", plan(EVALUATE), "--report", str(tmp_path / place)]) == 2
    told = capsys.readouterr().err
    assert f"--report {tmp_path / place}: " in told and told.count("\n") == 1


def published(step, **files):
    store = open_store(None)
    draft = store.draft("report", step, step=step)
    with draft:
        for name, value in files.items():
            draft.write_json(f"{name}.json", value)
        return draft.publish()


def test_a_pipeline_that_ends_with_an_audit_shows_the_comparison_before_it_or_none(plan, monkeypatch, tmp_path, capsys):
    audit = published("audit", audit={"verdict": "passed"})
    report = published("evaluate", report=REPORT)
    runs = iter([PipelineRun({"$audit": audit}), PipelineRun({"$table": report, "$audit": audit})])
    monkeypatch.setattr("retort.pipeline.commands.run_pipeline", lambda *_: next(runs))
    assert main(["run", plan(AUDIT)]) == 0
    assert "Report:" not in capsys.readouterr().out
    kept = tmp_path / "out.json"
    kept.write_text("an earlier one")
    assert main(["run", plan(EVALUATE, AUDIT), "--report", str(kept)]) == 0
    assert f"Report: {report.area.full('report.html')}" in capsys.readouterr().out
    assert json.loads(kept.read_text()) == REPORT


def test_a_value_that_is_not_yaml_is_told_with_its_option(not_run, capsys):
    assert main(["run", "quickstart", "--set", "ingest.source=[a"]) == 2
    told = capsys.readouterr().err
    assert "--set 'ingest.source=[a': the value is not YAML: " in told and told.count("\n") == 1
