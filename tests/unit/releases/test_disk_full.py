"""Out of disk in the middle of a re-index: nothing is published, the release stays, and it goes on when there is room."""

import os
from contextlib import suppress

import pytest
from tests.small_disk import mounted

import retort.releases.reindex as module
from retort.errors import StorageError
from retort.indexing.search import ShardedIndex
from retort.releases.reindex import ReindexConfig, reindex
from retort.releases.release import load_release
from retort.store import open_store

from .worlds import answers, new_corpus


@pytest.fixture
def store(tmp_path):
    """A store on a file system of four mebibytes."""
    with mounted(tmp_path / "small", "4m") as folder:
        yield open_store(str(folder / "store"))


@pytest.mark.parametrize(
    "step",
    ["delta_index", *(pytest.param(step, marks=pytest.mark.slow) for step in ("embed", "index", "promote_change"))],
)
def test_a_full_disk_publishes_nothing_and_the_next_run_finishes(store, world, monkeypatch, step):
    corpus = new_corpus(store, range(3, 400))
    before = answers(store)
    filler = store.area.root.parent / "filler"
    real = getattr(module, step)

    def full(*given, **named):
        with filler.open("wb", buffering=0) as handle, suppress(OSError):
            while True:
                handle.write(bytes(1024))
        if "index" in step:  # room for the small files, so that it is FAISS that meets the end
            os.truncate(filler, filler.stat().st_size - 36_864)
        return real(*given, **named)

    monkeypatch.setattr(module, step, full)
    config = ReindexConfig(release="live", corpus=corpus.uri, compact=step == "index", compact_share=100)
    made = len(store.list("index"))
    with pytest.raises(StorageError, match=r"No space left on device.* Nothing was published"):
        reindex(config)
    assert len(store.list("index")) == made + (step == "promote_change")
    release = load_release(store, "live")
    assert release.index.digest == world.digest
    ShardedIndex.open(release.index.find(store))
    gone = {"p000", "p001", "p002"}  # masked before the disk was full
    assert [[id_ for id_ in ids if id_ not in gone][:5] for ids in before] == [ids[:5] for ids in answers(store)]
    assert not list(store.area.root.rglob("*.tmp-*"))
    filler.unlink()
    monkeypatch.undo()
    monkeypatch.setenv("RETORT_CACHE", str(store.area.root.parent.parent / "cache"))
    outcome = reindex(config.model_copy(update={"store": store.uri}))
    assert load_release(store, "live").index.digest == outcome["index"].digest
