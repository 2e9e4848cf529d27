from pathlib import Path

import pytest

from retort.errors import ConfigError, NotFoundError
from retort.pipeline.plan import load_plan, shipped_plans, step_config

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_pipelines_beside_the_jobs_are_valid(path):
    assert load_plan(str(path)).steps


def test_the_shipped_pipelines_are_valid():
    assert "quickstart" in shipped_plans()
    assert all(load_plan(name).steps for name in shipped_plans())


def test_overrides_reach_nested_fields():
    plan = load_plan("quickstart", {"ingest.columns.text": "body", "seed": 5})
    config = step_config(plan, "ingest", {}, "here")
    assert config.columns.text == "body" and config.seed == 5 and config.name == "quickstart-ingest"


def test_an_override_of_an_unknown_step_names_the_steps():
    with pytest.raises(ConfigError, match="no step 'teachr'. Steps: ingest, "):
        load_plan("quickstart", {"teachr.epochs": 1})


def test_an_override_of_a_field_that_has_no_fields_names_it():
    with pytest.raises(ConfigError, match="Cannot set 'ingest.source.foo': 'source' is 'sample', which has no fields"):
        load_plan("quickstart", {"ingest.source.foo": 1})


@pytest.mark.parametrize("steps", ["[a]", "5", "{a: 5}"])
def test_an_override_of_steps_that_are_none_is_refused(tmp_path, steps):
    (tmp_path / "p.yaml").write_text(f"name: p\nsteps: {steps}\n")
    with pytest.raises(ConfigError, match="Cannot set 'a.seed'"):
        load_plan(str(tmp_path / "p.yaml"), {"a.seed": 1})


def test_an_unknown_pipeline_names_those_there_are():
    with pytest.raises(NotFoundError, match="no pipeline 'quickstrat'.*quickstart"):
        load_plan("quickstrat")


def test_a_step_without_a_job_is_refused(tmp_path):
    (tmp_path / "p.yaml").write_text("name: p\nsteps:\n  a: {source: x}\n")
    with pytest.raises(ConfigError, match="step 'a' has no job"):
        load_plan(str(tmp_path / "p.yaml"))


def test_a_job_that_is_no_name_is_refused(tmp_path):
    (tmp_path / "p.yaml").write_text("name: p\nsteps:\n  a: {job: [ingest], source: x}\n")
    with pytest.raises(ConfigError, match=r"step 'a' has job \['ingest'\], which is no name"):
        load_plan(str(tmp_path / "p.yaml"))


def test_an_unknown_job_names_the_jobs(tmp_path):
    (tmp_path / "p.yaml").write_text("name: p\nsteps:\n  a: {job: ingset}\n")
    with pytest.raises(ConfigError, match="no job 'ingset'. Jobs: ingest, "):
        load_plan(str(tmp_path / "p.yaml"))


def test_yaml_that_is_none_is_refused(tmp_path):
    (tmp_path / "p.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_plan(str(tmp_path / "p.yaml"))


def test_a_file_that_is_not_utf_8_is_refused(tmp_path):
    (tmp_path / "p.yaml").write_bytes("name: Prüfung".encode("latin-1"))
    with pytest.raises(ConfigError, match="p.yaml is not YAML: .*can't decode"):
        load_plan(str(tmp_path / "p.yaml"))


LISTS = """
name: p
steps:
  ingest: {job: ingest, source: sample}
  base: {job: embed, corpus: $ingest.corpus}
  tuned: {job: tune, embeddings: $base, queries: $ingest.train, dev_queries: $ingest.dev, guard_queries: [$ingest.dev, mine, %s]}
"""


def test_references_in_lists_are_replaced(tmp_path):
    (tmp_path / "p.yaml").write_text(LISTS % "$ingest.test")
    plan = load_plan(str(tmp_path / "p.yaml"))
    config = step_config(
        plan, "tuned", {"$ingest.dev": "dev-uri", "$ingest.test": "test-uri", "$base": "base-uri"}, "here"
    )
    assert config.guard_queries == ("dev-uri", "mine", "test-uri") and config.embeddings == "base-uri"


def test_a_reference_in_a_list_to_no_earlier_step_is_refused(tmp_path):
    (tmp_path / "p.yaml").write_text(LISTS % "$later.test")
    with pytest.raises(ConfigError, match=r"step 'tuned' refers to '\$later\.test', which is no earlier step"):
        load_plan(str(tmp_path / "p.yaml"))
