"""BM25, teacher and routing of a release: carried on, given anew, checked."""

import pytest

from retort.cli import main
from retort.errors import ConfigError, InputError
from retort.models.fakes import FakeEncoder
from retort.releases.compose import next_release
from retort.releases.optional_stages import read_routing
from retort.releases.promote import promote
from retort.releases.release import load_release
from retort.releases.routing import Routing, Shadow

from .worlds import build, publish_encoder, release_of

PASSAGES = [(f"p{number:02d}", f"passage number {number} about thing {number % 7}") for number in range(20)]


def test_stages_are_carried_on_until_given_anew(store, without_ray):
    promote(store, release_of(store, PASSAGES))
    tuned = publish_encoder(store, "tuned", FakeEncoder(32).passage_space)
    routing = Routing(shadows=[Shadow(encoder="tuned")])
    fake = store.get("fake", "encoder")
    promote(store, next_release(store, "live", encoders={"fake": fake, "tuned": tuned}, routing=routing, bm25=True))
    other = build(store, PASSAGES[1:], name="docs2")
    carried = next_release(store, "live", index=other)
    assert carried.bm25 and carried.routing == routing
    with pytest.raises(InputError, match="routing of release 'live' names tuned; its encoders are fake"):
        next_release(store, "live", encoders={"fake": fake})
    plain = next_release(store, "live", encoders={"fake": fake}, routing=Routing(), bm25=False)
    assert not plain.bm25 and plain.routing == Routing()


def test_routing_from_the_command_line(store, without_ray, monkeypatch, tmp_path):
    monkeypatch.setenv("RETORT_STORE", store.uri)
    build(store, PASSAGES)
    file = tmp_path / "routing.yaml"
    file.write_text("rules:\n- {encoder: fake, languages: [de]}\nguard: {max_p95_ms: 200}\n")
    assert main(["promote", "live", "--index", "docs", "--bm25", "--routing", str(file)]) == 0
    made = load_release(store, "live")
    assert made.bm25 and made.routing.rules[0].languages == ["de"] and made.routing.guard.max_p95_ms == 200
    assert main(["promote", "live", "--no-bm25"]) == 0
    assert not load_release(store, "live").bm25 and load_release(store, "live").routing == made.routing


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [("rules: [", InputError, "YAML"), ("- a", InputError, "holds a list"), ("wheights: {}", ConfigError, "wheights")],
)
def test_a_routing_file_that_cannot_be_used_is_named(tmp_path, text, error, words):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(error, match=words):
        read_routing(str(tmp_path / "r.yaml"))
