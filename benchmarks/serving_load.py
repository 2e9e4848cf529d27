"""Load on an endpoint: wrk for the closed loop, wrk2 for a set rate, and clients of our own for counting what failed."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

_LUA = """
local bodies, n = {}, 0
for line in io.lines("%(bodies)s") do n = n + 1; bodies[n] = line end
local at = 0
request = function()
  at = at %% n + 1
  return wrk.format("POST", nil, {["content-type"] = "application/json"}, bodies[at])
end
done = function(summary, latency, requests)
  local e = summary.errors
  local refused = 0
  for _, thread in ipairs(threads) do refused = refused + (thread:get("refused") or 0) end
  io.write(string.format('\\nJSON {"requests":%%d,"seconds":%%f,"p50":%%f,"p99":%%f,"bad":%%d,"refused":%%d,"broken":%%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000, e.status, refused,
    e.connect + e.read + e.write + e.timeout))
end
threads = {}
setup = function(thread) table.insert(threads, thread) end
"""
# Looking at every answer costs the generator time, so only where some are refused.
_COUNT_REFUSED = """
refused = 0
response = function(status) if status == 503 then refused = refused + 1 end end
"""


@dataclass(frozen=True)
class Load:
    """What a generator saw: answers a second, milliseconds, and what did not come."""

    rate: float
    p50_ms: float
    p99_ms: float
    good: int
    refused: int = 0
    bad: int = 0


def write_bodies(queries: Sequence[str], folder: Path, k: int, *, highlight: bool = False) -> Path:
    """One search body a line. Words are not marked unless asked: neither the bare loop nor the peer marks any."""
    path = folder / f"bodies-{'marked' if highlight else 'plain'}.jsonl"
    bodies = ({"query": query, "k": k, "highlight": highlight} for query in queries)
    path.write_text("".join(json.dumps(body) + "\n" for body in bodies), encoding="utf-8")
    return path


def closed_loop(url: str, clients: int, seconds: float, bodies: Path) -> Load:
    """wrk: so many clients, each asking again when it has its answer."""
    return _load(["wrk", "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s"], url, bodies, _LUA)


def open_loop(url: str, rate: float, seconds: float, bodies: Path, connections: int = 256) -> Load:
    """wrk2 at a set rate, evenly spaced, whether answers come or not; latency counts from when a request was due.

    The first ten seconds calibrate wrk2 and are not in its latencies. (autocannon sends a second's requests in one burst.)
    """
    command = ["wrk2", "-t1", f"-c{connections}", f"-d{10 + round(seconds)}s", f"-R{round(rate)}"]
    return _load(command, url, bodies, _LUA + _COUNT_REFUSED)


def need_generators() -> None:
    """End with what to install where a generator is missing."""
    for name, how in (
        ("wrk", "apt-get install wrk"),
        ("wrk2", "make it from github.com/giltene/wrk2, and put its `wrk` on the PATH as `wrk2`"),
    ):
        if shutil.which(name) is None:
            raise SystemExit(f"This benchmark needs {name}: {how}.")


def _load(command: list[str], url: str, bodies: Path, lua: str) -> Load:
    script = bodies.with_suffix(".lua")
    script.write_text(lua % {"bodies": bodies})
    done = subprocess.run(
        [*command, "--timeout", "20s", "-s", str(script), url], capture_output=True, text=True, check=True
    )
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("JSON "))[5:])
    good = found["requests"] - found["bad"]
    other = found["bad"] - found["refused"] + found["broken"]
    return Load(good / found["seconds"], found["p50"], found["p99"], good, found["refused"], other)


@dataclass
class Seen:
    """What our own clients saw."""

    answered: int = 0
    resent: int = 0
    failed: list[str] = field(default_factory=list)
    slowest_ms: float = 0.0
    versions: set[int] = field(default_factory=set)


@contextmanager
def steady(url: str, bodies: Path, clients: int) -> Iterator[Seen]:
    """Clients that ask without pause and send a request again once, as ours do; every answer is looked at."""
    lines = bodies.read_text("utf-8").splitlines()
    seen, ended, lock = Seen(), threading.Event(), threading.Lock()

    def ask(number: int) -> None:
        with httpx.Client(timeout=30, trust_env=False) as http:
            while not ended.is_set():
                number += clients
                began, problem = time.perf_counter(), ""
                for attempt in (0, 1):
                    try:
                        answer = http.post(
                            url, content=lines[number % len(lines)], headers={"content-type": "application/json"}
                        )
                        problem = "" if answer.status_code == 200 else f"HTTP {answer.status_code}: {answer.text[:200]}"
                    except httpx.HTTPError as error:
                        problem = repr(error)
                    if not problem:
                        break
                    if attempt == 0:
                        with lock:
                            seen.resent += 1
                        time.sleep(0.2)
                with lock:
                    if problem:
                        seen.failed.append(problem)
                    else:
                        seen.answered += 1
                        seen.versions.add(answer.json()["release"]["version"])
                    seen.slowest_ms = max(seen.slowest_ms, (time.perf_counter() - began) * 1000)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        ended.set()
        for thread in threads:
            thread.join()
