"""Jobs on a cluster that is already running: a head of this machine, `ray job submit`, and `RAY_ADDRESS`."""

import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retort.store import open_store
from tests.e2e.conftest import free_port, small_plan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head node with ports of its own (other Ray instances may be on this machine), and the environment in which to talk to it."""
    folder = Path("/tmp") / f"retort-head-{os.getpid()}"  # short: it holds Unix sockets
    port, dashboard = free_port(), free_port()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ADDRESS": f"127.0.0.1:{port}",
        "RAY_AUTH_MODE": "token",  # a head started by Ray 2.60 or later asks for one
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RETORT_CACHE": str(tmp_path_factory.mktemp("cache")),
    }
    started = [RAY, "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=2",
               f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={folder}", "--include-dashboard=true"]  # fmt: skip
    without_address = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
    log = tmp_path_factory.mktemp("head") / "log"
    with log.open("w") as sink:
        process = subprocess.Popen(started, env=without_address, stdout=sink, stderr=sink, start_new_session=True)
    deadline = time.monotonic() + 120
    url = f"http://127.0.0.1:{dashboard}"
    while subprocess.run([RAY, "job", "list", "--address", url], env=environment, capture_output=True).returncode:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(1)
    yield url, environment
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def submit(head, *command, timeout_s=600):
    url, environment = head
    return subprocess.run(
        [RAY, "job", "submit", "--address", url, "--working-dir", str(ROOT), "--", *command],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s,
    )  # fmt: skip


def test_the_whole_pipeline_goes_through_ray_job_submit(head, tmp_path):
    store = str(tmp_path / "store")
    run = submit(head, "python", "jobs/run.py", "quickstart", "--store", store, *small_plan())
    assert run.returncode == 0, (run.stdout + run.stderr)[-4000:]
    assert {item.kind for item in open_store(store).list()} >= {"corpus", "teacher", "encoder", "index", "report"}
    assert "MRR@10" in run.stdout

    again = submit(
        head, "python", "jobs/embed.py", "--corpus", "quickstart-ingest", "--name", "alone", "--store", store
    )
    assert again.returncode == 0, (again.stdout + again.stderr)[-4000:]
    assert "alone" in again.stdout


def test_a_job_that_fails_says_why_and_is_marked_failed(head, tmp_path):
    run = submit(head, "python", "jobs/embed.py", "--corpus", "nothing", "--store", str(tmp_path / "store"))
    assert run.returncode != 0
    assert "nothing" in run.stdout + run.stderr and "Traceback" not in run.stdout


def test_the_standard_platform_module_is_whole_in_a_job(head):
    run = submit(head, "python", "-c", "import platform, retort; print('on', platform.system())")
    assert run.returncode == 0 and "on Linux" in run.stdout, (run.stdout + run.stderr)[-2000:]


def test_the_command_line_uses_a_cluster_by_address(head, tmp_path):
    _, environment = head
    run = subprocess.run(
        [sys.executable, "-m", "retort.cli", "ingest", "--sample-passages", "120", "--store", str(tmp_path / "store")],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    embedded = subprocess.run(
        [sys.executable, "-m", "retort.cli", "embed", "--corpus", "sample", "--store", str(tmp_path / "store")],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert embedded.returncode == 0, embedded.stdout + embedded.stderr
