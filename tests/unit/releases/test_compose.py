"""The next release of a name: what is not given stays."""

import pytest

from retort.cli import main
from retort.errors import InputError, NotFoundError
from retort.models.fakes import FakeEncoder
from retort.releases.compose import next_release, read_canaries
from retort.releases.masks import masked_ref, read_mask
from retort.releases.promote import promote
from retort.releases.release import load_release

from .worlds import build, publish_encoder, release_of

PASSAGES = [(f"p{number:02d}", f"passage number {number} about thing {number % 7}") for number in range(20)]


def test_another_index_keeps_encoders_that_fit_canaries_and_what_was_asked_to_be_deleted(store, without_ray):
    release = release_of(store, PASSAGES)
    tuned = publish_encoder(store, "tuned", FakeEncoder(32).passage_space)
    stranger = publish_encoder(store, "stranger", "another space")
    release = next_release_of(store, release, tuned)
    other = build(store, PASSAGES[1:], name="docs2")
    moved = next_release(store, "live", index=other)
    assert list(moved.encoders) == ["fake", "tuned"] and moved.default_encoder == "tuned"
    assert moved.index.digest == other.digest and [item.query for item in moved.canaries] == ["thing"]
    # p00 is not in this corpus, but in the one to go back to; p06 was only gone from one.
    assert read_mask(store, moved) == {"p00": "asked", "p05": "asked"}
    promote(store, moved)
    assert stranger.name not in moved.encoders
    with pytest.raises(InputError, match="'none' is not one of this release's: fake, tuned"):
        next_release(store, "live", default_encoder="none")
    with pytest.raises(InputError, match="no release 'new' .* name the index"):
        next_release(store, "new")


def next_release_of(store, release, tuned):
    promote(store, release)
    made = next_release(store, "live", encoders={"fake": tuned_free(store), "tuned": tuned}, default_encoder="tuned")
    mask = masked_ref(store, {"p00": "asked", "p05": "asked", "p06": "gone"}, "live")
    made = made.model_copy(update={"masked": mask, "canaries": read_canaries(canary_file(store))})
    promote(store, made)
    return made


def tuned_free(store):
    return store.get("fake", "encoder")


def canary_file(store):
    store.area.write_bytes("canaries.jsonl", b'{"query": "thing", "expect": ["p01"]}\n\n')
    return str(store.area.root / "canaries.jsonl")


def test_a_canary_file_that_cannot_be_used_names_the_line(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"query": "x", "expect": ["p"]}\n{"query": "x", "expects": []}\n')
    with pytest.raises(InputError, match=r"c.jsonl:2: .*unknown field 'expects'"):
        read_canaries(str(tmp_path / "c.jsonl"))
    with pytest.raises(InputError, match="nowhere"):
        read_canaries(str(tmp_path / "nowhere"))


def test_promote_roll_back_and_history_from_the_command_line(store, without_ray, monkeypatch, capsys):
    monkeypatch.setenv("RETORT_STORE", store.uri)
    build(store, PASSAGES)
    build(store, PASSAGES[2:], name="docs2")
    assert main(["promote", "live", "--index", "docs"]) == 0
    assert main(["promote", "live", "--index", "docs2"]) == 0
    assert load_release(store, "live").index.name == "docs2"
    assert main(["rollback", "live"]) == 0
    assert load_release(store, "live").index.name == "docs"
    capsys.readouterr()
    assert main(["releases", "live"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "rolled back to version 1" in told and told.count("promoted") == 2
    assert main(["releases"]) == 0
    assert main(["rollback", "dead"]) == 2
    assert "Releases: live" in capsys.readouterr().err
    with pytest.raises(NotFoundError):
        load_release(store, "dead")
