"""SIGKILL at any moment of a build, a re-index, a promotion or a compaction: what is served stays whole, the next run finishes."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from retort.corpus.lookup import Passages
from retort.indexing.search import ShardedIndex
from retort.models.dual_encoder import DualEncoder
from retort.models.fakes import tiny_encoder
from retort.releases.masks import hidden_rows
from retort.releases.promote import history
from retort.releases.release import has_release, load_release
from retort.store import open_store

from ..unit.releases.worlds import WORDS, version_of

HOWS = ("before", "during", "after")


class Victim:
    """The other end of crash_victim.py."""

    def __init__(self, store: str, encoder: str, folder: Path) -> None:
        self._common = {"store": store, "encoder": encoder}
        self._errors = (folder / "victim.txt").open("w+")
        script = Path(__file__).with_name("crash_victim.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONPATH": str(script.parents[2] / "platform")},
        )
        assert self._process.stdout.readline().strip() == "ready", self.told()

    def told(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-3000:]

    def run(self, work: str, corpus: int, *, compact=False, die_at=None, how="before", kill_after_s=None) -> int:
        """One child; returns its exit status, negative for the signal that ended it."""
        order = {**self._common, "work": work, "corpus": corpus, "compact": compact, "die_at": die_at, "how": how}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        return int(self._process.stdout.readline())

    def end(self) -> None:
        self._process.stdin.close()
        self._process.wait(30)
        self._errors.close()


class Reader(threading.Thread):
    """Opens what is served, over and over, and compares each answer with one computed from that corpus's own texts."""

    def __init__(self, store, encoder) -> None:
        super().__init__(daemon=True)
        self._store, self._encoder = store, encoder
        self._queries = encoder.encode([f"{a} {b}" for a in WORDS[:3] for b in WORDS[3:6]], "query")
        self.wrong: list[str] = []
        self.read = 0
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                self.look()
            except Exception as error:
                self.wrong.append(f"{type(error).__name__}: {error}")
                return
            time.sleep(0.05)

    def look(self) -> set[str]:
        """One look; returns the ids that can be found."""
        if not has_release(self._store, "live"):
            return set()
        release = load_release(self._store, "live")
        corpus = Passages.open(release.corpus.find(self._store))
        index = ShardedIndex.open(release.index.find(self._store))
        hidden = hidden_rows(self._store, release, corpus)
        seen = np.ones(len(corpus), dtype=bool) if hidden is None else ~hidden
        searched = index if hidden is None else index.hiding(hidden)
        hits = searched.search(self._queries, 10)
        vectors = self._encoder.encode(list(corpus.iter_texts()), "passage")
        exact = np.where(seen, self._queries @ vectors.T, -np.inf)
        best = -np.sort(-exact, axis=1)[:, :10]
        np.testing.assert_allclose(hits.scores, best, atol=2e-3)  # float16 is what is stored
        assert seen[hits.rows].all()
        self.read += 1
        return {id_ for id_, one in zip(corpus.ids, seen, strict=True) if one}

    def end(self) -> None:
        self._ended.set()
        self.join()


def crash_and_finish(tmp_path, rounds: int, kills_each: int, seed: int) -> None:
    store = open_store(str(tmp_path / "store"))
    folder = tiny_encoder(tmp_path / "tiny", WORDS)
    victim = Victim(store.uri, str(folder), tmp_path)
    reader = Reader(store, DualEncoder.load(folder, device="cpu", precision="fp32"))
    chance = random.Random(seed)
    killed = 0
    reader.start()
    try:
        for number in range(rounds):
            work, compact = ("start" if not number else "reindex"), number % 3 == 2
            for _ in range(kills_each):
                if chance.random() < 0.6:
                    how = {"die_at": chance.randrange(24), "how": chance.choice(HOWS)}
                else:
                    how = {"kill_after_s": chance.random() * 0.5}
                killed += victim.run(work, number, compact=compact, **how) == -signal.SIGKILL
            assert victim.run(work, number, compact=compact) == 0, victim.told()
            assert not reader.wrong, reader.wrong
            assert reader.look() == {id_ for id_, _ in version_of(number)}
    finally:
        victim.end()
        reader.end()
    assert not reader.wrong, reader.wrong
    assert killed >= rounds * kills_each // 3 and reader.read >= rounds, (killed, reader.read)
    assert len(history(store, "live")) >= rounds


def test_killed_at_random_points_the_served_version_is_whole_and_the_next_run_finishes(tmp_path):
    crash_and_finish(tmp_path, rounds=3, kills_each=4, seed=1)


@pytest.mark.slow
def test_killed_at_very_many_points(tmp_path):
    # More rounds, not more kills in each: after three or four there is little left to be killed at.
    crash_and_finish(tmp_path, rounds=40, kills_each=4, seed=2)
