"""What cannot be scored is refused before any work: no part is written and Ray is never started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from retort.errors import ConfigError, IncompatibleError, InputError, ModelError, NotFoundError
from retort.models.fakes import tiny_cross_encoder, tiny_encoder
from retort.models.imports import teacher_artefact
from retort.store import Artefact, Store
from retort.store.schemas import PASSAGE
from retort.teaching.fakes import SMALL_WORDS, publish_small_world
from retort.teaching.score import ScoreConfig, score, worker_backend


@pytest.fixture
def world(store: Store, tmp_path: Path) -> dict[str, Artefact]:
    made = publish_small_world(store, passages=12, queries=8, per_part=4, depth=3)
    made["teacher"] = teacher_artefact(str(tiny_cross_encoder(tmp_path / "teacher", SMALL_WORDS)), store)
    return made


def config(world: dict[str, Artefact], **more: Any) -> ScoreConfig:
    return ScoreConfig(**{**{role: artefact.uri for role, artefact in world.items()}, **more})


def test_a_bi_encoder_is_no_teacher(world: dict[str, Artefact], tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "encoder", SMALL_WORDS)
    with pytest.raises(ModelError, match="bi-encoder"):
        score(config(world, teacher=str(folder)))


def test_a_head_with_three_labels_is_no_teacher(world: dict[str, Artefact], tmp_path: Path) -> None:
    folder = tiny_cross_encoder(tmp_path / "three", SMALL_WORDS)
    settings = json.loads((folder / "config.json").read_text())
    settings["id2label"] = {str(i): f"L{i}" for i in range(3)}
    settings["label2id"] = {f"L{i}": i for i in range(3)}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="3 labels"):
        score(config(world, teacher=str(folder)))


def test_a_teacher_that_is_not_there_is_named(world: dict[str, Artefact]) -> None:
    with pytest.raises((NotFoundError, ModelError), match="no-such-teacher"):
        score(config(world, teacher="no-such-teacher"))


def test_candidates_of_another_corpus_are_refused(world: dict[str, Artefact], store: Store) -> None:
    smaller = _other_corpus(store)
    with pytest.raises(InputError, match=r"names \d+ passages that the corpus does not have"):
        score(config({**world, "corpus": smaller}))
    assert not list(store.area.root.glob("judgements/*/*.parquet"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("q0", "nowhere"), "names 1 passages that the corpus does not have: 'nowhere'"),
        (("nobody", "p1"), "names 1 queries that the queries do not have: 'nobody'"),
        (("q0", "empty"), "names 1 passages with an empty text: 'empty'"),
    ],
)
def test_candidates_naming_what_is_not_there_or_empty_are_refused(
    world: dict[str, Artefact], store: Store, publish_candidates: Any, row: tuple[str, str], message: str
) -> None:
    corpus = store.draft("corpus", "with-empty", step="test", config={})
    with corpus:
        table = world["corpus"].table()
        empty = {**table.slice(0, 1).to_pylist()[0], "passage_id": "empty", "text": "  ", "title": ""}
        corpus.write_table(
            "part-00000.parquet", pa.concat_tables([table, pa.Table.from_pylist([empty], schema=PASSAGE)])
        )
        published = corpus.publish()
    candidates = publish_candidates([[(*row, "bm25", 1)]])
    with pytest.raises(InputError, match=message):
        score(config({**world, "corpus": published, "candidates": candidates}))
    assert not list(store.area.root.glob("judgements/*/*.parquet"))


def test_a_tokenizer_without_offsets_is_refused(world: dict[str, Artefact], tmp_path: Path) -> None:
    folder = tiny_cross_encoder(tmp_path / "slow", SMALL_WORDS)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CanineTokenizer"}))
    with pytest.raises(ModelError, match="slow one without character offsets"):
        score(config(world, teacher=str(folder)))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layers", (0, 2), r"layers names \[2\].*2 layers; expected numbers from 0 to 1"),
        ("heads", (0, 4), r"heads names \[4\].*4 heads"),
    ],
)
def test_layers_and_heads_that_the_teacher_lacks_are_refused(
    world: dict[str, Artefact], field: str, value: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        score(config(world, **{field: value}))


def test_word_maps_of_different_layers_are_not_mixed(world: dict[str, Artefact], store: Store) -> None:
    for name, layers in (("first", [0]), ("second", [1])):
        inputs = {"teacher": world["teacher"], "corpus": world["corpus"]}
        with store.draft("judgements", name, step="score", inputs=inputs, config=config(world, name=name).identity() | {"name": name}) as draft:  # fmt: skip
            draft.write_json("word_layers.json", {"layers": layers, "related": [], "unrelated": []})
            draft.publish()
    with pytest.raises(IncompatibleError, match=r"different layers \(\[0\], \[1\]\).*name `layers`"):
        score(config(world, reuse=("first", "second")))


def test_judgements_of_another_teacher_are_not_reused(world: dict[str, Artefact], store: Store) -> None:
    draft = store.draft("judgements", "old", step="score", inputs={"teacher": world["corpus"]}, config={})
    with draft:
        draft.write_bytes("part-00000.parquet", b"")
        draft.publish()
    with pytest.raises(IncompatibleError, match="judged by teacher"):
        score(config(world, reuse="old"))


def test_one_earlier_judgement_may_be_named_as_it_is_or_in_a_list(world: dict[str, Artefact]) -> None:
    assert config(world, reuse="x").reuse == config(world, reuse=["x"]).reuse == ("x",)
    assert config(world).reuse == ()


def test_made_judgements_are_returned_at_once(world: dict[str, Artefact], store: Store) -> None:
    settings = config(world)
    draft = store.draft("judgements", "small", step="score", inputs=world, config=settings.identity())
    with draft:
        draft.write_bytes("part-00000.parquet", b"")
        made = draft.publish()
    assert score(settings).uri == made.uri


def test_settings_of_speed_and_reuse_leave_the_key_alone(world: dict[str, Artefact]) -> None:
    plain = config(world).identity()
    assert (
        config(world, token_budget=4096, quarantine_threshold=0.5, reuse="x", resources={"workers": 3}).identity()
        == plain
    )
    assert config(world, word_level="off").identity() != plain
    fast = {"word_level": "off"}
    assert config(world, backend="onnx", **fast).identity() == config(world, backend="auto", **fast).identity()
    assert config(world, backend="onnx-int8", **fast).identity() != config(world, **fast).identity()
    assert config(world, top_k=3).identity() != plain


def test_a_higher_cost_cap_goes_on_with_the_same_draft(world: dict[str, Artefact]) -> None:
    def asked(**more: Any) -> dict[str, Any]:
        service = {"url": "http://x/rerank", "max_cost": 1, **more}
        return config(world, service=service).identity()

    patient = {"max_cost": 9, "requests_per_minute": 5, "attempts": 9, "timeout_s": 9, "documents_per_request": 5}
    assert asked(**patient, price_per_request=0.5, key_env="OTHER_KEY") == asked()
    assert asked(model="other") != asked() and asked(shape="tei") != asked()


@pytest.mark.parametrize(
    ("rows", "fields", "told"),
    [
        (9_999, {"word_level": False}, "torch"),
        (10_000, {"word_level": False}, "auto"),
        (10_000, {}, "torch"),
        (10, {"word_level": False, "backend": "onnx-int8"}, "onnx-int8"),
    ],
)
def test_a_graph_is_made_where_it_pays(world, store, rows, fields, told) -> None:
    with store.draft("candidates", "many", step="test", config={"rows": rows}) as draft:
        draft.write_bytes("part-00000.parquet", b"")
        candidates = draft.publish(rows=rows)
    assert worker_backend(config(world, **fields), candidates) == told


def _other_corpus(store: Store) -> Artefact:
    draft = store.draft("corpus", "other", step="test", config={})
    row = dict.fromkeys(PASSAGE.names, "x")
    with draft:
        draft.write_table("part-00000.parquet", pa.Table.from_pylist([row], schema=PASSAGE))
        return draft.publish()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"teacher": None}, "neither teacher nor service"),
        ({"teacher": None, "service": {"url": "http://x/rerank"}}, "name teacher, or set word_level to false"),
        ({"service": {"url": "http://x/rerank"}, "word_level": False}, "leave one of the two out"),
        ({"service": {"url": "http://x/rerank"}, "reuse": "y"}, "local teacher's scores"),
        ({"backend": "onnx"}, "set word_level to false"),
    ],
)
def test_sources_that_do_not_fit_together_are_refused(fields, said):
    values = {"candidates": "c", "corpus": "p", "queries": "q", "teacher": "t", **fields}
    with pytest.raises(ConfigError, match=said):
        ScoreConfig.validated({name: value for name, value in values.items() if value is not None})
