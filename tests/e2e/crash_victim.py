"""A process that lives to be killed: it waits with everything imported, and forks a child for each piece of work.

Lines on stdin: {"store", "work": "start" | "reindex", "corpus": version, "compact", "die_at", "how"}. It answers with the child's
process id, and with its exit status when it has ended. A child that is to die at the n-th change of the store kills itself
there with SIGKILL: before it, when the bytes are written but not yet in place, or right after.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import retort.indexing.stages as stages
from retort.indexing.build import IndexConfig, index
from retort.indexing.embed import EmbedConfig, embed
from retort.releases.compose import next_release
from retort.releases.promote import promote
from retort.releases.reindex import ReindexConfig, reindex
from retort.store import open_store
from retort.store.files import FileArea

sys.path.insert(0, str(Path(__file__).parents[1]))
from unit.releases.worlds import publish_corpus, version_of


def in_turn(worker, settings, parts, resources, *, describe, progress=None, weights=None):
    """Parts in this process: a fork must not start Ray, whose own part in it is tested in tests/ray."""
    made = worker(**settings)
    return [dict(made(part)) for part in parts]


def die_at(place: int, how: str) -> None:
    """Arrange for SIGKILL at the `place`-th change of the store from now on."""
    left = [place]
    write, put, delete = FileArea.write, FileArea.put_if_absent, FileArea.delete

    def now() -> bool:
        left[0] -= 1
        return left[0] < 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def dying_write(self, path, fill):
        if not now():
            return write(self, path, fill)

        def half(target):
            fill(target)
            if how == "during":
                die()

        if how == "before":
            die()
        write(self, path, half)
        die()

    def dying(real):
        def step(self, *given):
            if not now():
                return real(self, *given)
            if how == "before":
                die()
            real(self, *given)
            die()

        return step

    FileArea.write, FileArea.put_if_absent, FileArea.delete = dying_write, dying(put), dying(delete)


def work(order: dict) -> None:
    """What a child does."""
    os.environ["RETORT_STORE"] = order["store"]
    stages.map_parts = in_turn
    store = open_store()
    corpus = publish_corpus(store, version_of(order["corpus"]))
    if order["die_at"] is not None:
        die_at(order["die_at"], order["how"])
    if order["work"] == "start":
        embeddings = embed(EmbedConfig(corpus=corpus.uri, encoder=order["encoder"], precision="fp32"))
        made = index(IndexConfig(embeddings=embeddings.uri, kind="flat", shards=2, name="docs-index"))
        promote(store, next_release(store, "live", index=made))
    else:
        reindex(ReindexConfig(release="live", corpus=corpus.uri, compact=order["compact"], sample=10))


def main() -> None:
    """Fork for each line."""
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            status = 1
            try:
                os.setsid()
                work(order)
                status = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(status)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
