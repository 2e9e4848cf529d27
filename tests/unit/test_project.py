"""The project's own files: cluster.yaml, module names, the jobs folder."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from retort.pipeline.jobs import JOBS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cluster():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture
def schema():
    import ray.autoscaler

    return json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


def test_cluster_yaml_fits_the_schema_that_ships_with_ray(cluster, schema):
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]


def test_cluster_yaml_with_a_misspelt_field_does_not_fit(cluster, schema):
    cluster["max_wokers"] = cluster.pop("max_workers")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster, schema)


def test_every_node_of_cluster_yaml_has_an_image_the_stores_credentials_and_room(cluster):
    nodes = {name: node["node_config"] for name, node in cluster["available_node_types"].items()}
    assert len({node["InstanceType"] for node in nodes.values()}) == len(nodes)
    for node in nodes.values():
        assert node["ImageId"].startswith("ami-"), "Ray's default image has a Python that is too old"
        assert node["IamInstanceProfile"], "a worker without a profile cannot read the store"
        assert node["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] >= 100
    assert "InstanceMarketOptions" not in nodes[cluster["head_node_type"]]


def test_what_a_node_of_cluster_yaml_exports_reaches_the_store_in_its_region(cluster):
    exported = next(line for line in cluster["setup_commands"] if "export" in line)
    assert f"AWS_REGION={cluster['provider']['region']} " in exported and "RETORT_STORE=s3://" in exported


def test_the_standard_librarys_platform_is_not_shadowed_at_the_root():
    code = "import sys; sys.path.insert(0, ''); import platform; print(platform.__file__, platform.python_version())"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert str(ROOT) not in run.stdout
    assert not (ROOT / "platform" / "__init__.py").exists()


def test_the_standard_librarys_platform_is_not_shadowed_in_a_job():
    code = "import runpy, sys; sys.argv = ['ingest.py', '--help']\ntry: runpy.run_path('jobs/ingest.py', run_name='__main__')\nexcept SystemExit: pass\nimport platform; print(platform.__file__)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert str(ROOT / "platform") not in run.stdout.splitlines()[-1]


def test_every_job_is_a_script_of_about_ten_lines():
    scripts = {path.stem.replace("_", "-"): path for path in (ROOT / "jobs").glob("*.py")}
    assert set(JOBS) <= set(scripts)
    assert all(len(path.read_text().splitlines()) <= 15 for path in scripts.values())


@pytest.mark.parametrize("name", sorted(JOBS))
def test_every_job_has_a_config_with_a_sentence_for_each_field(name):
    config = JOBS[name].config
    assert all(field.description and field.description.endswith(".") for field in config.model_fields.values()), config
    assert callable(JOBS[name].step)
