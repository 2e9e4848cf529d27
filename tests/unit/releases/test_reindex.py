"""Bringing a release up to a newer corpus or encoder, with real (tiny) encoders and without Ray."""

import json
import threading
import time

import numpy as np
import pyarrow as pa
import pytest

from retort.cli import main
from retort.errors import BusyError, ConfigError, CorruptError, InputError, NotFoundError
from retort.indexing.build import IndexConfig, index
from retort.models.dual_encoder import DualEncoder
from retort.models.fakes import tiny_encoder
from retort.releases.compose import next_release
from retort.releases.deleting import mask_passages, read_ids
from retort.releases.masks import read_mask
from retort.releases.promote import history, promote, rollback
from retort.releases.purging import purge
from retort.releases.reindex import ReindexConfig, reindex, release_lock
from retort.releases.release import Canary, load_release
from retort.store.locks import lease

from .worlds import WORDS, answers, new_corpus, passages


class Said:
    """A progress that keeps what was said."""

    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)

    def task(self, *args):
        from retort.progress import QUIET

        return QUIET.task(*args)

    @property
    def text(self):
        return "\n".join(self.lines)


def rebuilt(store, corpus, name):
    embeddings = store.get(load_release(store, "live").index.find(store).input("embeddings").uri)
    assert embeddings.input("corpus").digest == corpus.digest
    made = index(IndexConfig(embeddings=embeddings.uri, kind="flat", shards=1, name=name))
    promote(store, next_release(store, name, index=made))


def test_a_partial_reindex_masks_embeds_what_changed_and_answers_as_a_rebuild(store, world, monkeypatch):
    asked = []
    real = DualEncoder.encode
    monkeypatch.setattr(
        DualEncoder, "encode", lambda self, texts, *a, **k: asked.extend(texts) or real(self, texts, *a, **k)
    )
    corpus = new_corpus(store, range(3, 82), changed=[40])
    said = Said()
    made = reindex(ReindexConfig(release="live", corpus=corpus.uri), said)
    assert sorted(asked) == sorted(text for _, text in [*passages([80, 81]), *passages([40], version=1)])
    assert made["index"].manifest.step == "delta" and made["index"].input("base").digest == world.digest
    assert (
        "2 added, 1 changed, 3 deleted, 76 unchanged" in said.text
        and "3 deleted passages are masked since version 2" in said.text
    )
    assert "To embed: 3 of 79 passages" in said.text and "recall@10 1.000" in said.text
    moves = history(store, "live")
    assert [move.release.note for move in moves] == [
        "re-indexed (partial)", "masked 3 passages that left the corpus", "promoted",
    ]  # fmt: skip
    assert set(read_mask(store, moves[1].release)) == {"p000", "p001", "p002"} and moves[0].release.masked is None
    rebuilt(store, corpus, "whole")
    assert answers(store) == answers(store, "whole")
    again = Said()
    reindex(ReindexConfig(release="live", corpus=corpus.uri), again)
    assert "up to date (version 3)" in again.text


def relabelled(store, corpus, lang):
    """The corpus with another language, and so with vectors of the same digest."""
    with store.draft("corpus", corpus.name, step="test", config={"lang": lang}) as draft:
        for part in corpus.parts():
            table = corpus.part(part)
            place = table.schema.get_field_index("lang")
            draft.write_table(part, table.set_column(place, table.schema.field(place), pa.array([lang] * len(table))))
        return draft.publish(rows=corpus.manifest.rows)


@pytest.mark.parametrize("compact", [True, False])
def test_a_corpus_of_which_only_languages_changed_gets_an_index_of_its_own(store, world, compact):
    english = world.input("embeddings").input("corpus")
    for lang in ("de", "fr"):
        corpus = relabelled(store, english, lang)
        made = reindex(ReindexConfig(release="live", corpus=corpus.uri, compact=compact))
        assert made["embeddings"].digest == world.input("embeddings").digest
        assert load_release(store, "live").corpus.digest == corpus.digest
        rollback(store, "live", 1)
    assert load_release(store, "live").corpus.digest == english.digest
    assert made["index"].input("corpus").key == corpus.key == made["index"].input("embeddings").input("corpus").key


def test_an_index_that_names_no_corpus_yet_is_served_and_extended(store, world, monkeypatch):
    embeddings = world.input("embeddings")
    with monkeypatch.context() as earlier:
        earlier.setattr("retort.indexing.build.with_corpus", lambda embeddings: {"embeddings": embeddings})
        old = index(IndexConfig(embeddings=embeddings.uri, kind="flat", shards=2, name="before"))
    assert [record.role for record in old.manifest.inputs] == ["embeddings"] and old.digest == world.digest
    promote(store, next_release(store, "before", index=old))
    assert answers(store, "before") == answers(store)
    corpus = new_corpus(store, range(3, 82))
    for name in ("before", "live"):
        reindex(ReindexConfig(release=name, corpus=corpus.uri))
    assert answers(store, "before") == answers(store)


def test_a_delta_of_a_delta_and_then_a_compaction(store, world):
    for step, numbers in enumerate([range(2, 84), range(4, 86)]):
        reindex(ReindexConfig(release="live", corpus=new_corpus(store, numbers, name=f"step{step}").uri))
    second = load_release(store, "live").index.find(store)
    assert second.input("base").input("base").digest == world.digest
    holders = {e["artefact"]["key"] for e in second.json("index.json")["shards"] if "artefact" in e}
    assert holders == {world.key, second.input("base").key}
    before = answers(store)
    said = Said()
    reindex(ReindexConfig(release="live", compact=True), said)
    compacted = load_release(store, "live").index.find(store)
    assert compacted.manifest.step == "index" and compacted.manifest.config["kind"] == "flat"
    assert answers(store) == before and "To embed: 0 of 82" in said.text
    corpus = new_corpus(store, range(4, 110), name="much")
    reindex(ReindexConfig(release="live", corpus=corpus.uri), said)
    assert "would be 23% of it: the index is built whole" in said.text
    assert load_release(store, "live").index.find(store).manifest.step == "index"


def test_what_was_asked_to_be_deleted_stays_deleted_over_newer_and_older_corpora(store, world):
    assert main(["delete", "live", "--passages", "p005", "--passages", "p006"]) == 0
    assert not any({"p005", "p006"} & set(ids) for ids in answers(store, k=80))
    assert answers(store, k=80)[0] and len(answers(store, k=80)[0]) == 78
    smaller = new_corpus(store, range(6, 81), name="smaller")
    made = reindex(ReindexConfig(release="live", corpus=smaller.uri, name="smaller-index"))["index"]
    asked = {"p005": "asked", "p006": "asked"}  # p005 left with the corpus; the older one still holds it
    assert read_mask(store, load_release(store, "live")) == asked
    rollback(store, "live", 1)
    assert read_mask(store, load_release(store, "live")) == asked
    assert not any({"p005", "p006"} & set(ids) for ids in answers(store, k=80))
    promote(store, next_release(store, "live", index=made))
    assert main(["promote", "live", "--index", world.uri]) == 0
    assert load_release(store, "live").index.digest == world.digest
    assert not any({"p005", "p006"} & set(ids) for ids in answers(store, k=80))
    with pytest.raises(NotFoundError, match="no passage 'p999'"):
        mask_passages(store, "live", ["p999"], "asked", "x")


def test_what_was_deleted_is_answered_again_once_it_left_and_was_ingested_again(store, world):
    mask_passages(store, "live", ["p005", "p006"], "asked", "deleted")
    reindex(ReindexConfig(release="live", corpus=new_corpus(store, range(6, 81), name="smaller").uri))
    time.sleep(1)  # a corpus says to the second when it was made
    again = new_corpus(store, range(3, 81), changed=[5], name="again")
    second = reindex(ReindexConfig(release="live", corpus=again.uri, name="again-index"))["index"]
    # p006 never left: that the corpus was read again does not undo the request.
    assert read_mask(store, load_release(store, "live")) == {"p006": "asked"}
    mask_passages(store, "live", ["p005"], "asked", "deleted again")
    reindex(ReindexConfig(release="live", corpus=new_corpus(store, range(6, 82), name="last").uri))
    promote(store, next_release(store, "live", index=second))
    assert read_mask(store, load_release(store, "live")) == {"p005": "asked", "p006": "asked"}


def test_what_was_deleted_from_a_newer_corpus_stays_deleted_after_a_visit_to_an_older_one(store, world):
    time.sleep(1)
    bigger = new_corpus(store, range(81), name="bigger")
    second = reindex(ReindexConfig(release="live", corpus=bigger.uri, name="bigger-index"))["index"]
    mask_passages(store, "live", ["p080"], "asked", "deleted")
    rollback(store, "live", 1)
    promote(store, next_release(store, "live", index=second))
    assert read_mask(store, load_release(store, "live")) == {"p080": "asked"}


def test_a_purge_of_other_passages_does_not_bring_deleted_ones_back(store, world):
    mask_passages(store, "live", ["p005"], "asked", "deleted")
    reindex(
        ReindexConfig(release="live", corpus=new_corpus(store, range(6, 81), name="smaller").uri, name="smaller-index")
    )
    time.sleep(1)
    purge(store, ["p009"])
    remade = store.get("docs-index", "index")
    assert remade.digest != world.digest
    promote(store, next_release(store, "live", index=remade))
    assert read_mask(store, load_release(store, "live")) == {"p005": "asked"}


def test_ids_come_from_the_command_line_or_from_files(tmp_path):
    (tmp_path / "ids.txt").write_text('p1\n\n{"passage_id": "p2"}\n{"_id": "p3"}\n')
    assert read_ids([str(tmp_path / "ids.txt"), "p4", "p1"]) == ["p1", "p2", "p3", "p4"]
    (tmp_path / "bad.txt").write_text('{"id": 3}\n')
    with pytest.raises(InputError, match="bad.txt:1: expected an object with passage_id"):
        read_ids([str(tmp_path / "bad.txt")])


def test_a_reindex_that_was_broken_off_leaves_the_old_corpus_whole_and_the_next_run_finishes(store, world, monkeypatch):
    corpus = new_corpus(store, range(3, 82))
    monkeypatch.setattr("retort.releases.reindex.delta_index", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        reindex(ReindexConfig(release="live", corpus=corpus.uri))
    assert load_release(store, "live").index.digest == world.digest
    assert not {"p000", "p001", "p002"} & {id_ for ids in answers(store, k=80) for id_ in ids}
    monkeypatch.undo()
    monkeypatch.setenv("RETORT_CACHE", str(store.area.root / "cache"))
    back = reindex(ReindexConfig(store=store.uri, release="live"))  # nothing to do: what was masked is shown again
    assert back["index"].digest == world.digest and load_release(store, "live").masked is None
    made = reindex(ReindexConfig(store=store.uri, release="live", corpus=corpus.uri))
    assert load_release(store, "live").index.digest == made["index"].digest


def test_a_second_reindex_is_told_who_holds_the_lock(store, world):
    with lease(release_lock(store, "live"), "re-indexing release live"):
        with pytest.raises(BusyError, match=r"Process \d+ on .* is already at it \(re-indexing release live\)"):
            reindex(ReindexConfig(release="live", compact=True))
    with pytest.raises(NotFoundError, match="no release 'dead'"):
        reindex(ReindexConfig(release="dead"))


def test_what_costs_more_than_the_budget_is_asked_for_or_refused(store, world, capsys):
    corpus = new_corpus(store, range(3, 82))
    assert main(["reindex", "live", "--corpus", corpus.uri, "--budget", "0"]) == 2
    told = capsys.readouterr()
    assert "more than the budget of 0 worker-hours" in told.err and "--yes" in told.err
    assert [move.version for move in history(store, "live")] == [1]  # nothing was begun

    class Sitting(Said):
        answer = False

        def can_ask(self):
            return True

        def ask(self, question):
            self.lines.append(question)
            return self.answer

    config = ReindexConfig(release="live", corpus=corpus.uri, budget=0, price_per_hour=2.5)
    with pytest.raises(ConfigError, match="nothing was changed"):
        reindex(config, Sitting())
    sitting = Sitting()
    sitting.answer = True
    reindex(config, sitting)
    assert "at 2.5 an hour" in sitting.text and "Go on?" in sitting.text
    assert main(["reindex", "live", "--compact", "--budget", "0", "--yes"]) == 0


def test_a_new_encoder_is_embedded_beside_checked_and_goes_back(store, world, tmp_path):
    tiny_encoder(tmp_path / "other", WORDS, seed=3)
    before = answers(store)
    said = Said()
    reindex(ReindexConfig(release="live", encoder=str(tmp_path / "other"), max_quality_loss=1), said)
    release = load_release(store, "live")
    assert list(release.encoders) == ["other"] and release.index.digest != world.digest
    assert "by the two encoders' sizes" in said.text and "no labelled queries" in said.text
    rollback(store, "live")
    assert answers(store) == before


def test_a_worse_encoder_is_not_promoted(store, world, tmp_path):
    corpus = world.input("embeddings").input("corpus")
    publish_labelled(store, corpus)
    tiny_encoder(tmp_path / "bad", [], seed=9, max_tokens=4)
    with pytest.raises(InputError, match=r"nDCG@10 falls from [01]\.\d+ to 0\.\d+ on \d+ queries of docs.dev"):
        reindex(ReindexConfig(release="live", encoder=str(tmp_path / "bad")))
    assert load_release(store, "live").index.digest == world.digest


def publish_labelled(store, corpus):
    import pyarrow as pa

    from retort.store.schemas import QREL, QUERY

    draft = store.draft("queries", "docs.dev", step="test", inputs={"corpus": corpus})
    with draft:
        asked = passages(range(0, 80, 2))
        rows = [
            {"query_id": f"q{id_}", "text": text, "lang": "en", "origin": "label", "fields": "{}"}
            for id_, text in asked
        ]
        draft.write_table("queries.parquet", pa.Table.from_pylist(rows, schema=QUERY))
        qrels = [{"query_id": f"q{id_}", "passage_id": id_, "grade": 1} for id_, _ in asked]
        draft.write_table("qrels.parquet", pa.Table.from_pylist(qrels, schema=QREL))
        return draft.publish(rows=len(rows))


def test_canaries_and_recall_hold_a_promotion_back(store, world, monkeypatch):
    corpus = new_corpus(store, range(3, 82))
    release = load_release(store, "live")
    canary = Canary(query=passages([3])[0][1], expect=["p003"], within=3)
    promote(store, release.model_copy(update={"canaries": [canary]}))
    monkeypatch.setattr("retort.releases.reindex.index_recall", lambda *_: 0.4)
    with pytest.raises(CorruptError, match=r"finds 0.400 of the exact ten best .* Nothing was promoted"):
        reindex(ReindexConfig(release="live", corpus=corpus.uri))
    monkeypatch.undo()
    monkeypatch.setenv("RETORT_CACHE", str(store.area.root / "cache"))
    bad = load_release(store, "live").model_copy(
        update={"canaries": [canary.model_copy(update={"expect": ["absent"]})]}
    )
    promote(store, bad)
    with pytest.raises(CorruptError, match="expects one of absent among the first 3 hits"):
        reindex(ReindexConfig(store=store.uri, release="live", corpus=corpus.uri))
    assert load_release(store, "live").index.digest == world.digest


def test_a_release_that_was_moved_meanwhile_is_not_overwritten(store, world, monkeypatch):
    corpus = new_corpus(store, range(3, 82))
    other = index(IndexConfig(embeddings=world.input("embeddings").uri, kind="hnsw", shards=1, name="other"))
    import retort.releases.reindex as module

    real = module.delta_index

    def slow(*given):
        promote(store, next_release(store, "live", index=other))
        return real(*given)

    monkeypatch.setattr(module, "delta_index", slow)
    with pytest.raises(BusyError, match="was moved to index 'other' meanwhile"):
        reindex(ReindexConfig(release="live", corpus=corpus.uri))
    assert load_release(store, "live").index.digest == other.digest


def test_a_deletion_during_a_reindex_is_kept(store, world, monkeypatch):
    corpus = new_corpus(store, range(3, 82))
    import retort.releases.reindex as module

    real = module.delta_index

    def slow(*given):
        thread = threading.Thread(target=mask_passages, args=(store, "live", ["p010"], "asked", "deleted"))
        thread.start()
        thread.join()
        return real(*given)

    monkeypatch.setattr(module, "delta_index", slow)
    reindex(ReindexConfig(release="live", corpus=corpus.uri))
    assert read_mask(store, load_release(store, "live")) == {"p010": "asked"}
    assert json.dumps(np.unique([len(ids) for ids in answers(store, k=90)]).tolist()) == "[78]"
