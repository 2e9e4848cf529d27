"""Which queries search what: same- and cross-language cells, levels, samples, clusters, and bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retort.errors import CorruptError, IncompatibleError, InputError
from retort.tuning.guard import Guard, GuardSettings, prepare_guard
from retort.tuning.guard_data import GuardData

from .worlds import GivenVectors, World, published_sections, sections, tiny


def prepared(world: World, tmp_path: Path, settings: dict[str, Any] | None = None, target: bool = False) -> GuardData:
    """The data of a guard over one world whose vectors do not matter."""
    for number, row in enumerate(world.queries):
        row["text"] = str(number)
    encoder = GivenVectors(np.eye(len(world.queries), 8) + 0.1)
    vectors = np.random.default_rng(0).normal(size=(len(world.passages), 8))
    made = world.publish(vectors, encoder.passage_space)
    chosen = GuardSettings.model_validate(settings or {})
    prepare_guard(chosen, [] if target else [made], made if target else None, encoder, tmp_path / "guard", 13)  # type: ignore[arg-type]
    return GuardData.open(tmp_path / "guard")


def shape(data: GuardData) -> dict[tuple[str, str], tuple[int, int]]:
    """{(language, kind): (queries, candidates)}."""
    return {
        (cell.language, cell.kind): (cell.entries[1] - cell.entries[0], cell.block[1] - cell.block[0])
        for cell in data.cells
    }


def ids_in(data: GuardData, language: str, kind: str) -> list[str]:
    cell = next(cell for cell in data.cells if (cell.language, cell.kind) == (language, kind))
    return [data.query_ids[number] for number in data.entries[slice(*cell.entries), 1]]


def test_every_language_searches_itself_and_the_pivot_but_the_pivot_only_itself(tmp_path: Path) -> None:
    data = prepared(sections(10), tmp_path)
    assert shape(data) == {
        ("en-us", "same"): (10, 10),
        ("de", "same"): (10, 10),
        ("de", "cross"): (10, 10),
        ("ja", "same"): (10, 10),
        ("ja", "cross"): (10, 10),
    }
    assert len(data.vectors) == 30, "all cross-language cells share the pivot's block"
    assert len(set(data.clusters)) == 10, "a query in three languages is one cluster"
    assert data.notes == ()


def test_a_query_without_a_translated_passage_is_left_out_across_languages_only(tmp_path: Path) -> None:
    world = sections(10)
    world.passages = [row for row in world.passages if row["passage_id"] != "en-us/s3"]
    world.queries = [row for row in world.queries if row["query_id"] != "en-us/s3"]
    world.qrels = [row for row in world.qrels if row["query_id"] != "en-us/s3"]
    data = prepared(world, tmp_path)
    assert shape(data)["de", "same"] == (10, 10)
    assert shape(data)["de", "cross"] == (9, 9)
    assert "de/s3" not in ids_in(data, "de", "cross")
    assert any("1 of 10 queries in de have no en translation" in note for note in data.notes)


def test_queries_labelled_with_pivot_passages_search_them_directly(tmp_path: Path) -> None:
    world = World()
    for number in range(6):
        world.passage(f"p{number}", "en")
        world.query(f"de{number}", "de", {f"p{number}": 2, f"p{(number + 1) % 6}": 1, f"p{(number + 2) % 6}": 0})
    data = prepared(world, tmp_path)
    assert shape(data) == {("de", "cross"): (6, 6)}
    first = data.pairs[data.pair_offsets[0] : data.pair_offsets[1]].tolist()
    assert sorted(first) == [[0, 2], [1, 1]], "grade 0 is not relevant"
    assert any("no labelled query in en" in note for note in data.notes)


def test_a_corpus_without_languages_is_in_the_pivot_language(tmp_path: Path) -> None:
    world = World()
    for number in range(6):
        world.passage(f"p{number}", "")
        world.query(f"q{number}", "fr" if number % 2 else "", {f"p{number}": 1})
    data = prepared(world, tmp_path)
    assert shape(data) == {("fr", "cross"): (3, 6)}
    assert any("3 labelled queries have no language" in note for note in data.notes)
    for row in world.queries:
        row["lang"] = ""
    assert shape(prepared(world, tmp_path)) == {("en", "same"): (6, 6)}, "nobody says a language: there is one"


def test_passages_without_a_language_beside_others_are_told(tmp_path: Path) -> None:
    world = sections(6)
    world.passage("stray", "")
    assert any("1 passages of small have no language" in note for note in prepared(world, tmp_path).notes)


def test_language_tags_are_compared_without_case_and_with_either_separator(tmp_path: Path) -> None:
    world = World()
    for number in range(6):
        world.passage(f"EN/p{number}", "EN")
        world.passage(f"pt_BR/p{number}", "pt_BR")
        world.query(f"pt_BR/p{number}", "pt-br", {f"pt_BR/p{number}": 1})
    data = prepared(world, tmp_path)
    assert shape(data) == {("pt-br", "same"): (6, 6), ("pt-br", "cross"): (6, 6)}


def test_translations_can_be_found_by_a_field(tmp_path: Path) -> None:
    world = World()
    for number in range(6):
        world.passage(f"a{number}", "en", section_id=number)
        world.passage(f"b{number}", "th", section_id=number)
        world.query(f"t{number}", "th", {f"b{number}": 1})
        world.query(f"e{number}", "en", {f"a{number}": 1})
    data = prepared(world, tmp_path, {"parallel": "section_id"})
    assert shape(data)["th", "cross"] == (6, 6)
    assert len(set(data.clusters)) == 6, "queries for translations of one passage are one cluster"
    with pytest.raises(InputError, match="'sectionid' is no field .* section_id"):
        prepared(world, tmp_path, {"parallel": "sectionid"})


def test_levels_take_the_candidates_of_the_relevant_passages_category(tmp_path: Path) -> None:
    data = prepared(sections(22), tmp_path, {"levels": ["module", "folder"]})
    assert data.codes.shape == (66, 2)
    cell = next(cell for cell in data.cells if (cell.language, cell.kind) == ("de", "cross"))
    for entry in range(*cell.entries):
        place = int(data.pairs[data.pair_offsets[entry], 0])
        own = data.codes[cell.block[0] + place]
        assert data.entry_codes[entry].tolist() == own.tolist()
    sizes = np.bincount(data.codes[slice(*cell.block), 1])
    assert sizes.tolist() == [6, 6, 5, 5]
    small = prepared(sections(18), tmp_path, {"levels": ["module", "folder"]})
    assert small.codes[:18, 1].min() == 0
    of_folder_3 = small.entry_codes[:, 1][small.entry_codes[:, 1] >= 0]
    assert set(of_folder_3.tolist()) == {0, 1}, "folders with four passages only are left out, and modules stay"
    assert (small.entry_codes[:, 0] >= 0).all()


def test_a_level_that_no_corpus_has_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="no corpus of the guard has a field 'modul'; there are folder, module, section"
    ):
        prepared(sections(10), tmp_path, {"levels": ["modul"]})


def test_a_large_collection_is_sampled_keeps_what_is_relevant_and_says_so(tmp_path: Path) -> None:
    world = sections(10)
    for number in range(300):
        world.passage(f"de/other{number}", "de")
    data = prepared(world, tmp_path, {"max_passages": 100})
    assert shape(data)["de", "same"] == (10, 100)
    assert any("de: queries search 100 of 310 passages" in note for note in data.notes)
    again = prepared(world, tmp_path, {"max_passages": 100})
    assert np.array_equal(data.vectors, again.vectors)


def test_the_target_takes_passages_of_the_pivot_language_only(tmp_path: Path) -> None:
    world = sections(10)
    world.queries = [row for row in world.queries if row["lang"] == "en-us"]
    kept = {row["query_id"] for row in world.queries}
    world.qrels = [row for row in world.qrels if row["query_id"] in kept]
    data = prepared(world, tmp_path, target=True)
    assert shape(data) == {("en", "target"): (10, 10)}


def test_vectors_of_another_encoder_are_refused_with_both_names(tmp_path: Path) -> None:
    encoder, other = tiny(tmp_path / "a"), tiny(tmp_path / "b", seed=1)
    made = published_sections(encoder)
    with pytest.raises(IncompatibleError, match=f"{encoder.passage_space[:12]}.*{other.passage_space[:12]}"):
        prepare_guard(GuardSettings(), [made], None, other, tmp_path / "guard", 13)


def test_queries_about_another_corpus_are_refused(tmp_path: Path) -> None:
    encoder = tiny(tmp_path / "a")
    _, embeddings = published_sections(encoder)
    other = World()
    other.passage("elsewhere", "en")
    other.query("q", "en", {"elsewhere": 1})
    queries, _ = other.publish(np.ones((1, 32)), encoder.passage_space, name="other")
    with pytest.raises(IncompatibleError, match="'elsewhere'"):
        prepare_guard(GuardSettings(), [(queries, embeddings)], None, encoder, tmp_path / "guard", 13)


def test_a_set_that_measures_nothing_is_refused(tmp_path: Path) -> None:
    world = World()
    world.passage("p", "de")
    world.query("q", "fr", {"p": 1})
    with pytest.raises(InputError, match="small.dev .* no query that the guard could be measured on"):
        prepared(world, tmp_path)


def test_a_guard_without_sets_can_be_written_and_says_that_nothing_is_guarded(tmp_path: Path) -> None:
    encoder = tiny(tmp_path / "a")
    prepare_guard(GuardSettings(), [], None, encoder, tmp_path / "guard", 13)
    guard = Guard.open(tmp_path / "guard")
    look = guard.look(encoder)
    judgement = guard.judge(look, look, looks=1)
    assert look.target is None
    assert not judgement.all_kept
    assert judgement.summary.startswith("Nothing is guarded")


def test_files_that_are_not_whole_are_told(tmp_path: Path) -> None:
    prepared(sections(10), tmp_path)
    (tmp_path / "guard" / "tokens.npy").unlink()
    with pytest.raises(CorruptError, match="run the same command again"):
        Guard.open(tmp_path / "guard")
