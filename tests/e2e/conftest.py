"""End-to-end tests run the command line as a user would: in processes of its own, with a store of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = {
    "ingest.sample_passages": 260,
    "candidates.max_queries": 48,
    "dev-candidates.max_queries": 12,
    "teacher.max_steps": 2,
    "teacher.evaluate_every": 2,
    "teacher.held_out_queries": 8,
    "student.max_steps": 3,
    "student.dev_pool_passages": 64,
    "report.rerank_top": 2,
    "report.max_queries": 20,
    "report.latency_queries": 5,
    "report.latency_budget_s": 0.5,
}
"""The quickstart's plan, small: every step is real, nothing is long."""


def small_plan():
    return [argument for field, value in SMALL.items() for argument in ("--set", f"{field}={value}")]


class Command:
    """`retort ...` in processes that share a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "RETORT_STORE": str(folder / "store"),
            "RETORT_CACHE": str(folder / "cache"),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self.environment.pop("RAY_ADDRESS", None)

    def start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "retort.cli", *arguments],
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, timeout_s: float = 500) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "retort.cli", *arguments],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def kill_when(process: subprocess.Popen, condition, timeout_s: float = 300) -> None:
    """SIGKILL the whole process group as soon as `condition()` holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.stdout.read() if process.stdout else "ended early"
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="session")
def command(tmp_path_factory):
    return Command(tmp_path_factory.mktemp("e2e"))
