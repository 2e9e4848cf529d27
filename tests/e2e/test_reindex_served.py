"""Deleting, re-indexing and rolling back under a running endpoint, from the command line, while somebody keeps asking."""

import json
import re
import signal
import threading
import time

import httpx
import pytest

from retort.models.fakes import tiny_encoder
from retort.serving.client import Client

from .conftest import Command, free_port

WORDS = ["file", "socket", "list", "path", "word", "query", "value", "name", "time", "set"]


def rows(numbers, note=""):
    return [
        {
            "_id": f"p{n}",
            "title": WORDS[n % 10],
            "text": f"How to read a {WORDS[n % 10]} in {WORDS[(n // 10) % 10]} {n}{note}.",
        }
        for n in numbers
    ]


@pytest.mark.slow
def test_the_endpoint_follows_a_deletion_a_reindex_and_a_roll_back_without_a_failed_request(tmp_path):
    command = Command(tmp_path)
    source = tmp_path / "docs.jsonl"

    def done(*arguments):
        outcome = command.run(*arguments)
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr
        return outcome.stdout

    def ingest(values):
        source.write_text("\n".join(map(json.dumps, values)))
        done("ingest", "--source", str(source), "--name", "docs", "--no-make-queries")

    tiny_encoder(tmp_path / "tiny", WORDS)
    ingest(rows(range(60)))
    done("embed", "--corpus", "docs", "--encoder", str(tmp_path / "tiny"), "--name", "docs-tiny")
    done("index", "--embeddings", "docs-tiny", "--name", "docs-index")
    done("promote", "live", "--index", "docs-index")
    port = free_port()
    server = command.start("serve", "live", "--port", str(port))
    failed, ended = [], threading.Event()

    def keep_asking():
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            while not ended.is_set():
                answer = http.post("/v1/search", json={"query": "read a file", "k": 60})
                if answer.status_code != 200:
                    failed.append(answer.text)
                time.sleep(0.05)

    asking = threading.Thread(target=keep_asking)
    try:
        deadline = time.monotonic() + 240
        while True:
            assert server.poll() is None and time.monotonic() < deadline, server.stdout.read()
            try:
                if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        asking.start()
        with Client(f"http://127.0.0.1:{port}") as client:

            def answered():
                return {hit.passage_id for hit in client.search("read a file", k=100).hits}

            assert len(answered()) == 60
            told = " ".join(done("delete", "live", "--passages", "p3", "--wait-s", "60").split())
            assert re.search(r"1 of 1 replicas answer without them, [0-9.]+ s after the start", told), told
            print(told)
            assert answered() == {f"p{n}" for n in range(60)} - {"p3"}
            ingest([*rows(range(1, 64))[:40], *rows(range(41, 64), " and more")])
            told = " ".join(done("reindex", "live", "--corpus", "docs").split())
            print(told)
            assert "4 added, 19 changed, 1 deleted" in told and "1 of 1 replicas answer without them" in told
            version = int(re.search(r"is at version (\d+)", told)[1])
            wait_for(client, version)
            assert answered() == {f"p{n}" for n in range(1, 64)} - {"p3"}
            done("rollback", "live")
            wait_for(client, version + 1)
            assert answered() == {f"p{n}" for n in range(1, 60)} - {"p3"}
    finally:
        ended.set()
        if asking.ident:
            asking.join()
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=90)
    assert not failed, failed[:3]


def wait_for(client, version):
    deadline = time.monotonic() + 60
    while client.info().version != version:
        assert time.monotonic() < deadline, client.info()
        time.sleep(0.1)
