import numpy as np
import pytest

from retort.errors import CorruptError, InputError, NotFoundError
from retort.indexing.build import IndexConfig, index
from retort.indexing.shards import ShardRows, shard_rows, training_rows
from retort.store import open_store

from .conftest import unit_vectors


def test_shards_are_even_runs_of_rows_over_parts():
    assert shard_rows([("a", 4), ("b", 3)], 2) == [
        ShardRows(0, 0, 3, (("a", 0, 3),)),
        ShardRows(1, 3, 4, (("a", 3, 4), ("b", 0, 3))),
    ]


@pytest.mark.parametrize("shards", [1, 2, 5, 11])
def test_every_row_is_in_exactly_one_shard(shards):
    parts = [("a", 3), ("b", 1), ("c", 7)]
    cut = shard_rows(parts, shards)
    rows = [f"{part}{row}" for shard in cut for part, start, stop in shard.pieces for row in range(start, stop)]
    assert rows == [f"{part}{row}" for part, count in parts for row in range(count)]
    assert max(shard.count for shard in cut) - min(shard.count for shard in cut) <= 1


def test_the_training_sample_is_fixed_by_its_seed():
    assert (training_rows(100, 10, 3) == training_rows(100, 10, 3)).all()
    assert (training_rows(100, 10, 3) != training_rows(100, 10, 4)).any()
    assert len(set(training_rows(100, 10, 3).tolist())) == 10
    assert training_rows(5, 10, 3).tolist() == [0, 1, 2, 3, 4]


def test_the_manifest_says_what_was_built_and_why(publish_embeddings, make_index):
    made = make_index(publish_embeddings(unit_vectors(90, 8), licences=["MIT"], personal_data="none"))
    assert made.files() == [
        "ids-00000.parquet",
        "ids-00001.parquet",
        "index.json",
        "shard-00000.faiss",
        "shard-00001.faiss",
    ]
    assert made.metrics["kind"] == "Flat" and "90 passages of 8 dimensions" in made.metrics["why"]
    assert made.metrics["passage_space"] == "s" * 64 and made.metrics["own_vectors_found"] == 1.0
    assert made.input("embeddings").name == "vectors"
    assert made.manifest.licences == ["MIT"] and made.manifest.personal_data == "none"
    ids = made.table("ids-00001.parquet")
    assert ids.column("row").to_pylist() == list(range(45, 90))
    assert ids.column("passage_id").to_pylist()[0] == "p0045"


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf-sq8", "OPQ2,IVF4,PQ4x4"])
def test_same_inputs_same_bytes(publish_embeddings, make_index, tmp_path, monkeypatch, kind):
    vectors = unit_vectors(400, 16)
    first = make_index(publish_embeddings(vectors), kind=kind)
    monkeypatch.setenv("RETORT_STORE", str(tmp_path / "elsewhere"))
    copy = first.input("embeddings")
    (tmp_path / "elsewhere/embeddings").mkdir(parents=True)
    (tmp_path / "elsewhere/embeddings" / copy.key).symlink_to(copy.local())
    second = index(IndexConfig(embeddings=str(tmp_path / "elsewhere/embeddings" / copy.key), kind=kind))
    assert second.uri != first.uri and second.digest == first.digest


def test_a_second_run_makes_nothing_anew(publish_embeddings, make_index, monkeypatch):
    embeddings = publish_embeddings(unit_vectors(30, 8))
    first = make_index(embeddings)
    monkeypatch.setattr("retort.indexing.stages.map_parts", lambda *_, **__: pytest.fail("built again"))
    assert make_index(embeddings).uri == first.uri


def test_a_killed_build_goes_on_from_complete_shards_and_the_same_quantiser(
    publish_embeddings, make_index, monkeypatch
):
    embeddings = publish_embeddings(unit_vectors(300, 8))
    whole = make_index(embeddings, kind="IVF4,SQ8", shards=3, name="whole")
    store = open_store()
    store.area.delete_folder(f"index/{whole.key}")
    from retort.indexing import shards, stages

    asked = []

    def one_shard_then_death(worker, settings, parts, resources, **_):
        asked.append(list(parts))
        made = worker(**settings)
        stats = [dict(made(part)) for part in parts[:1]]
        if worker is shards.ShardBuilder and len(parts) > 2:
            raise KeyboardInterrupt
        return stats + [dict(made(part)) for part in parts[1:]]

    monkeypatch.setattr(stages, "map_parts", one_shard_then_death)
    with pytest.raises(KeyboardInterrupt):
        make_index(embeddings, kind="IVF4,SQ8", shards=3)
    assert store.list("index") == []
    again = make_index(embeddings, kind="IVF4,SQ8", shards=3)
    assert asked[-1] == ["shard-00001.faiss", "shard-00002.faiss"] and ["quantiser"] not in asked[2:]
    assert again.digest == whole.digest
    assert not any(path.startswith("_") for path in [item.path for item in again.area.list()])


def test_more_shards_than_passages(publish_embeddings, make_index):
    with pytest.raises(InputError, match=r"shards is 4, and .* has 3 passages"):
        make_index(publish_embeddings(unit_vectors(3, 8)), shards=4)


def test_duplicate_ids(publish_embeddings, make_index):
    with pytest.raises(InputError, match="1 passage ids more than once, such as 'b'"):
        make_index(publish_embeddings(unit_vectors(4, 8), ids=["a", "b", "b", "c"]))


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_unfit_vectors(publish_embeddings, make_index, value):
    vectors = unit_vectors(90, 8)
    vectors[70] = value
    with pytest.raises(InputError, match="passage 'p0070'"):
        make_index(publish_embeddings(vectors))
    assert open_store().list("index") == []


def test_embeddings_of_mixed_dimension(publish_embeddings, make_index):
    with pytest.raises(InputError, match="expected float16 vectors of 12 dimensions"):
        make_index(publish_embeddings(unit_vectors(9, 8), metrics={"dimension": 12}))


def test_too_few_vectors_to_train(publish_embeddings, make_index):
    with pytest.raises(InputError, match="FAISS could not train index kind 'PQ4x8'"):
        make_index(publish_embeddings(unit_vectors(100, 8)), kind="PQ4x8")


def test_embeddings_that_are_not_there(make_index):
    with pytest.raises(NotFoundError, match="no embeddings 'nothing'"):
        index(IndexConfig(embeddings="nothing"))


def test_a_shard_that_does_not_find_its_own_vectors_is_not_kept(publish_embeddings, make_index, monkeypatch):
    from retort.indexing import shards

    written = shards.faiss.write_index

    def scrambled(made, path):
        other = shards.faiss.IndexFlatIP(made.d)
        other.add(unit_vectors(made.ntotal, made.d, seed=9).astype(np.float32))
        written(other, path)

    monkeypatch.setattr(shards.faiss, "write_index", scrambled)
    with pytest.raises(CorruptError, match=r"shard-00000.faiss as written finds \d+% of"):
        make_index(publish_embeddings(unit_vectors(90, 8)), kind="flat")
    assert open_store().list("index") == []
