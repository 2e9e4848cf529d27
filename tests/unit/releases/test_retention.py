"""What is kept, what is collected, and purging."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retort.cli import main
from retort.corpus.lookup import Passages
from retort.errors import BusyError, InputError, NotFoundError
from retort.indexing.search import ShardedIndex
from retort.releases.holding import holding
from retort.releases.masks import masked_ref, read_mask
from retort.releases.promote import history, promote, rollback
from retort.releases.purging import _trim, purge
from retort.releases.reindex import ReindexConfig, reindex, release_lock
from retort.releases.release import Canary, load_release
from retort.releases.retention import carry_out, plan_collection
from retort.releases.usage import announce, withdraw
from retort.store import cache_root
from retort.store.locks import lease

from .worlds import answers, new_corpus, passages

LATER = datetime.now(UTC) + timedelta(days=30)


def found(collection):
    return sorted((item.kind, item.key[:8]) for item in collection.artefacts)


def test_nothing_is_collected_that_is_served_named_recent_or_needed(store, world):
    assert plan_collection(store, 0).artefacts == []
    reindex(ReindexConfig(release="live", corpus=new_corpus(store, range(3, 82)).uri))
    now = plan_collection(store, 14)
    assert now.artefacts == [] and now.versions == []  # within the retention time it can be rolled back to
    later = plan_collection(store, 14, LATER)
    assert later.versions == [("live", 2), ("live", 1)]
    # The first index stays for its shards; its embeddings and corpus are needed by nobody.
    kinds = [item.kind for item in later.artefacts]
    assert sorted(kinds) == ["corpus", "embeddings", "mask"] and kinds == ["embeddings", "mask", "corpus"]
    assert later.kept[world.uri].endswith("uses its shards or settings")


def test_what_a_replica_still_serves_is_kept_until_it_lets_go(store, world):
    first = load_release(store, "live")
    reindex(ReindexConfig(release="live", corpus=new_corpus(store, range(3, 82)).uri, compact=True))
    announce(store, "slow", first, ttl_s=100)
    assert [item.kind for item in plan_collection(store, 14, LATER).artefacts] == ["mask"]
    withdraw(store, "slow")
    collection = plan_collection(store, 14, LATER)
    assert world.uri in {item.uri for item in collection.artefacts}
    before = answers(store)
    carry_out(store, collection)
    assert answers(store) == before and store.find("index", world.key) is None
    assert [move.version for move in history(store, "live")] == [3]
    with pytest.raises(NotFoundError, match="no earlier version"):
        rollback(store, "live")
    assert plan_collection(store, 14, LATER).artefacts == []
    # and life goes on from what was kept
    reindex(ReindexConfig(release="live", corpus=new_corpus(store, range(5, 84), name="next").uri))
    carry_out(store, plan_collection(store, 0, LATER))
    reindex(ReindexConfig(release="live", compact=True))


def test_collect_says_what_would_go_and_deletes_when_told(store, world, capsys):
    reindex(ReindexConfig(release="live", corpus=new_corpus(store, range(3, 82)).uri, compact=True))
    assert main(["collect", "--retention-days", "0"]) == 0
    told = capsys.readouterr().out
    assert "index/docs-index" in told and "Would go: 4 artefacts" in told and store.find("index", world.key)
    assert main(["collect", "--retention-days", "0", "--delete"]) == 0
    assert store.find("index", world.key) is None


GONE = ["p003", "p041"]


def everything(store):
    """Every byte of the store and of the node cache, as text where it is compressed."""
    texts = [
        path.read_bytes() for root in (store.area.root, cache_root()) for path in root.rglob("*") if path.is_file()
    ]
    for kind in ("corpus", "embeddings", "mask"):
        for item in store.list(kind):
            for path in item.files("*.parquet"):
                texts.append(str(item.part(path).to_pylist()).encode())
    return b"\n".join(texts)


def test_purged_passages_are_in_no_version_and_no_cache(store, world, capsys, monkeypatch):
    monkeypatch.setenv("RETORT_CACHE", str(cache_root()))
    for step, numbers in enumerate([range(1, 82), [n for n in range(1, 84) if n != 41]]):
        reindex(ReindexConfig(release="live", corpus=new_corpus(store, numbers, name=f"s{step}").uri))
    release = load_release(store, "live")
    canaries = [Canary(query="file", expect=["p003"]), Canary(query="socket", expect=["p003", "p001"], within=80)]
    mask = masked_ref(store, {"p003": "asked", "p009": "asked"}, "live")
    promote(store, release.model_copy(update={"canaries": canaries, "masked": mask, "examples": ["number 41", "ok?"]}))
    answers(store)  # fills the node cache
    served = load_release(store, "live").index.find(store)
    assert served.manifest.step == "delta"
    before = [[id_ for id_ in ids if id_ not in GONE] for ids in answers(store, k=90)]
    assert main(["purge", "--passages", GONE[0], "--passages", GONE[1]]) == 0
    told = capsys.readouterr().out
    after = load_release(store, "live")
    index = after.index.find(store)
    assert index.manifest.step == "index" and answers(store, k=90) == before
    assert [item.expect for item in after.canaries] == [["p001"]] and "number 41" not in after.examples
    assert read_mask(store, after) == {"p009": "asked"} and len(history(store, "live")) == 1
    assert store.find("index", world.key) is None and store.find("index", served.key) is None
    for id_ in GONE:
        assert id_.encode() not in everything(store)
        assert dict(passages(range(80)))[id_].encode() not in everything(store)
    assert "deleted corpus/docs" in told and "Run the same command on the other machines" in told
    assert (
        main(["purge", "--passages", GONE[0], "--passages", GONE[1]]) == 0
    )  # the record is there: caches are looked at again
    with pytest.raises(NotFoundError, match="No corpus in .* holds any of the 1 passages"):
        purge(store, ["p003"])


def left(store, ids=GONE):
    """Published artefacts and drafts that name the passages."""
    tables = [
        path for kind in ("corpus", "embeddings", "index") for path in (store.area.root / kind).rglob("*.parquet")
    ]
    return [
        path for path in tables if set(ids) & set(pq.read_table(path, columns=["passage_id"])["passage_id"].to_pylist())
    ]


def test_no_reindex_publishes_between_the_look_and_the_locks(store, world, monkeypatch):
    corpus = new_corpus(store, range(1, 82), name="next")
    refused = []

    def and_a_reindex_meanwhile(store, ids):
        found = holding(store, ids)
        try:
            reindex(ReindexConfig(release="live", corpus=corpus.uri))
        except BusyError as error:
            refused.append(str(error))
        return found

    monkeypatch.setattr("retort.releases.purging.holding", and_a_reindex_meanwhile)
    done = purge(store, GONE)
    assert left(store) == [] and refused and done.unfinished == []


def draft_of(store, kind, ids, files=("part-00000.parquet",)):
    """An unfinished artefact that names these passages."""
    draft = store.draft(kind, "unfinished", step="test", config={"files": [*ids, *files]})
    for path in files:
        if path.endswith(".parquet"):
            draft.write_table(path, pa.table({"passage_id": ids}))
        else:
            draft.write_bytes(path, b"vectors")
    return draft


SHARD = ("ids-00000.parquet", "shard-00000.faiss")


@pytest.mark.parametrize(
    ("kind", "ids", "files", "goes"),
    [
        ("corpus", ["p003", "p004"], ["part-00000.parquet"], True),
        ("corpus", ["p004"], ["part-00000.parquet"], False),
        ("embeddings", ["p041"], ["part-00000.parquet"], True),
        ("index", ["p003", "p004"], SHARD, True),
        ("index", ["p004"], SHARD, False),
        ("index", ["p004"], [*SHARD, "shard-00001.faiss"], True),  # nothing says whose vectors it holds
        ("index", ["p004"], [*SHARD, "_training/0.faiss"], True),
        ("mask", ["p003"], ["mask.parquet"], True),
    ],
)
def test_what_broken_off_jobs_left_of_the_passages_goes(store, world, kind, ids, files, goes):
    draft = draft_of(store, kind, ids, files)
    done = purge(store, GONE)
    assert bool(draft.files()) is not goes
    assert left(store) == [] and done.unfinished == []


def test_a_running_job_keeps_its_draft_and_the_purge_says_that_it_is_not_over(store, world, capsys):
    draft = draft_of(store, "corpus", ["p003"])
    with draft:
        assert main(["purge", "--passages", "p003"]) == 2
        told = capsys.readouterr()
        assert "are in no version any more" not in told.out and "deleted corpus/docs" in told.out
        assert "may still be in a version" in told.err and "making corpus/unfinished" in told.err
        assert draft.files() == ["part-00000.parquet"]
        made = draft.publish(rows=1)
    assert main(["purge", "--passages", "p003"]) == 2  # a corpus of which nothing would be left
    assert "would be left without passages" in capsys.readouterr().err
    made.area.delete_folder()
    assert main(["purge", "--passages", "p003"]) == 0
    assert "1 passages are in no version any more" in capsys.readouterr().out


def test_what_a_job_publishes_while_a_purge_runs_is_told_and_purged_by_the_next(store, world, monkeypatch):
    def and_an_ingest_meanwhile(*given):
        new_corpus(store, range(1, 82), name="meanwhile")
        return _trim(*given)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr("retort.releases.purging._trim", and_an_ingest_meanwhile)
        (told,) = purge(store, GONE).unfinished
    assert "corpus/meanwhile" in told and "published meanwhile" in told
    assert purge(store, GONE).unfinished == [] and left(store) == []


def test_what_came_from_the_passages_is_listed(store, world, capsys):
    corpus = world.input("embeddings").input("corpus")
    queries = published(store, "queries", "docs.train", {"corpus": corpus})
    encoder = published(store, "encoder", "student", {"queries": queries})
    unrelated = published(store, "report", "other", {})
    done = purge(store, ["p003"])
    assert done.may_quote == sorted([str(queries), str(encoder)]) and str(unrelated) not in done.may_quote


def published(store, kind, name, inputs):
    draft = store.draft(kind, name, step="test", inputs=inputs, config={"name": name})
    with draft:
        draft.write_json("x.json", {"name": name})
        return draft.publish()


@pytest.mark.parametrize("moment", [0, 1, 2, 3, 5, 7])
def test_a_purge_that_was_broken_off_leaves_the_release_whole_and_the_next_one_finishes(
    store, world, monkeypatch, moment
):
    """Killed after the n-th write or deletion."""
    reindex(ReindexConfig(release="live", corpus=new_corpus(store, range(1, 82), name="next").uri))
    import retort.releases.purging as purging

    left = [moment]

    def counted(real):
        def step(*given, **named):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return real(*given, **named)

        return step

    for name in ("promote", "delete_artefact", "index", "_trim"):
        monkeypatch.setattr(purging, name, counted(getattr(purging, name)))
    with suppress(KeyboardInterrupt):
        purge(store, GONE)
    release = load_release(store, "live")
    ShardedIndex.open(release.index.find(store))
    Passages.open(release.corpus.find(store))
    left[0] = 1000
    purge(store, GONE)
    answered = {id_ for ids in answers(store, k=90) for id_ in ids}
    assert answered == {f"p{n:03d}" for n in range(1, 82)} - set(GONE)
    assert all(
        not set(GONE) & set(item.table(columns=["passage_id"])["passage_id"].to_pylist())
        for item in store.list("corpus")
    )
    assert len(store.list("index")) == len(store.list("corpus")) or len(store.list("index")) <= 2


def test_a_purge_waits_for_nobody_who_reindexes_and_refuses_to_empty_a_corpus(store, world):
    with (
        lease(release_lock(store, "live"), "re-indexing release live"),
        pytest.raises(BusyError, match="re-indexing release live"),
    ):
        purge(store, GONE)
    with pytest.raises(InputError, match="would be left without passages"):
        purge(store, [f"p{n:03d}" for n in range(80)])
    assert json.loads(store.area.read(f"corpus/{world.input('embeddings').input('corpus').key}/manifest.json"))
