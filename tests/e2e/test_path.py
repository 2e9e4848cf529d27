"""The whole path, killed half-way, finished by a second run, served over HTTP and asked."""

import json
import signal
import time
from pathlib import Path

import httpx
import pytest

from retort.serving.client import Client
from retort.store import open_store
from tests.e2e.conftest import free_port, kill_when, small_plan

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def finished(command):
    """The store after a run that was killed when its teacher was published, and a second one that ended; its report."""
    store = open_store(command.environment["RETORT_STORE"])
    kill_when(command.start("run", "quickstart", *small_plan()), lambda: bool(store.list("teacher")), timeout_s=800)
    before = {item.uri: Path(item.uri, "manifest.json").stat().st_mtime_ns for item in store.list()}
    assert not store.list("report")
    target = command.folder / "out.json"
    run = command.run("run", "quickstart", *small_plan(), "--report", str(target))
    assert run.returncode == 0, run.stdout + run.stderr
    return store, before, json.loads(target.read_text()), run.stdout


def test_a_second_run_keeps_what_the_killed_one_finished(finished):
    store, before, _, _ = finished
    assert {Path(uri).parent.name for uri in before} >= {
        "corpus",
        "queries",
        "embeddings",
        "index",
        "candidates",
        "teacher",
    }
    assert all(Path(uri, "manifest.json").stat().st_mtime_ns == written for uri, written in before.items())
    kinds = [item.kind for item in store.list()]
    assert {kind: kinds.count(kind) for kind in ("teacher", "judgements", "encoder", "embeddings", "index", "report")} == {
        "teacher": 1, "judgements": 1, "encoder": 2, "embeddings": 2, "index": 2, "report": 1,
    }  # fmt: skip


def test_the_report_has_the_four_systems(finished):
    _, _, report, output = finished
    assert [row["name"] for row in report["systems"]] == ["bm25", "base", "student", "teacher"]
    for row in report["systems"]:
        assert 0 <= row["mrr@10"] <= 1 and row["ms_per_query"] > 0 and row["index_bytes"] > 0, row
    assert "MRR@10" in output and "Query:" in output


def test_a_third_run_does_nothing_again(command, finished):
    store = finished[0]
    before = {item.uri: Path(item.uri, "manifest.json").stat().st_mtime_ns for item in store.list()}
    run = command.run("run", "quickstart", *small_plan())
    assert run.returncode == 0, run.stdout + run.stderr
    assert {item.uri: Path(item.uri, "manifest.json").stat().st_mtime_ns for item in store.list()} == before
    assert "already made" in run.stdout


def test_lineage_reaches_from_the_index_to_the_corpus(command, finished):
    run = command.run("lineage", "index/quickstart-student-index")
    assert run.returncode == 0
    for kind in ("index/", "embeddings/", "encoder/", "judgements/", "teacher/", "candidates/", "corpus/"):
        assert kind in run.stdout, run.stdout


@pytest.mark.slow
def test_the_endpoint_answers_a_real_client(command, finished):
    port = free_port()
    server = command.start("serve", "quickstart-student-index", "--port", str(port))
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert server.poll() is None, server.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.3)
        with Client(f"http://127.0.0.1:{port}") as client:
            answer = client.search("return a copy of the array", k=5)
            assert len(answer.hits) == 5
            scores = [hit.score for hit in answer.hits]
            assert scores == sorted(scores, reverse=True) and all(hit.text for hit in answer.hits)
        page = httpx.get(f"http://127.0.0.1:{port}/", trust_env=False)
        assert page.status_code == 200 and "<input" in page.text
        asked = command.run("query", "return a copy of the array", "-k", "2", "--url", f"http://127.0.0.1:{port}")
        assert asked.returncode == 0 and answer.hits[0].passage_id in asked.stdout
        second = command.run("serve", "quickstart-student-index", "--port", str(port))
        assert second.returncode == 2 and str(port) in second.stderr and "Traceback" not in second.stderr
    finally:
        server.send_signal(signal.SIGTERM)
        said = server.communicate(timeout=60)[0]
    assert server.returncode == 0 and "Ending." in said and "SIGTERM received" not in said, said
