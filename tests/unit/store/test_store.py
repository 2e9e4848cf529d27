import pickle
import subprocess
import sys

import pyarrow as pa
import pytest

from retort.errors import BusyError, CorruptError, InputError, NotFoundError, StorageError
from retort.store import licences, open_store
from retort.terminal import lineage_lines


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "s"))


def make(store, name="docs", kind="corpus", config=None, inputs=None, rows=2, licence="MIT"):
    draft = store.draft(kind, name, step="ingest", config=config or {"a": 1}, inputs=inputs)
    with draft:
        draft.write_table("part-00000.parquet", pa.table({"x": list(range(rows))}))
        return draft.publish(rows=rows, licences=[licence])


def test_no_manifest_no_artefact(store):
    draft = store.draft("corpus", "docs", step="ingest")
    with draft:
        draft.write_table("part-00000.parquet", pa.table({"x": [1]}))
        assert store.list() == [] and draft.published is None
        draft.publish()
    assert [item.name for item in store.list()] == ["docs"]


def test_complete_parts_of_a_killed_run_are_found_by_the_next(store):
    code = (
        "import os, sys, signal, pyarrow as pa; from retort.store import open_store\n"
        "draft = open_store(sys.argv[1]).draft('corpus', 'docs', step='ingest')\n"
        "with draft:\n    draft.write_table('part-00000.parquet', pa.table({'x': [1]})); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, store.uri]).returncode == -9
    draft = store.draft("corpus", "docs", step="ingest")
    assert draft.published is None
    with draft:
        assert draft.has("part-00000.parquet") and not draft.has("part-00001.parquet")


def test_key_follows_config_and_inputs_and_not_the_name(store):
    one = make(store)
    same = make(store, name="other")
    assert one.key == same.key and store.get("other", "corpus").key == store.get("docs", "corpus").key
    assert make(store, config={"a": 2}).key != one.key
    child = make(store, kind="queries", name="q", inputs={"corpus": one})
    grown = make(store, name="docs", config={"a": 3}, rows=3)
    assert make(store, kind="queries", name="q", inputs={"corpus": grown}).key != child.key
    assert child.input("corpus").uri == one.uri


def test_same_bytes_same_digest(store, tmp_path):
    assert make(store).digest == make(open_store(str(tmp_path / "elsewhere"))).digest


def test_references(store):
    one = make(store)
    for ref in ("docs", "corpus/docs", one.key[:10], one.key, one.digest, one.uri):
        assert store.get(ref).uri == one.uri, ref
    with pytest.raises(NotFoundError, match=r"no corpus 'dosc'.*There: docs"):
        store.get("dosc", "corpus")
    with pytest.raises(InputError, match="names a corpus; a index is needed"):
        store.get("corpus/docs", "index")
    make(store, kind="queries", name="docs")
    with pytest.raises(InputError, match="fits several"):
        store.get("docs")


def test_names_follow_the_newest(store):
    make(store)
    newer = make(store, config={"a": 2})
    assert store.get("docs", "corpus").key == newer.key


def test_bad_names_are_refused(store):
    with pytest.raises(InputError, match="is no name"):
        store.draft("corpus", "../escape", step="ingest")


def test_a_flipped_bit_names_the_file(store):
    one = make(store)
    path = one.local("part-00000.parquet")
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CorruptError, match=r"part-00000\.parquet has checksum"):
        one.verify()


def test_a_json_file_that_was_changed_is_not_read(store):
    with store.draft("report", "r", step="evaluate") as draft:
        draft.write_json("report.json", {"mrr": 0.25})
        made = draft.publish()
    assert made.json("report.json") == {"mrr": 0.25}
    for damage in ('{"mrr": 0.95}', "{'mrr"):
        (made.local() / "report.json").write_text(damage)
        with pytest.raises(CorruptError, match=r"report\.json has checksum .* run the step again, or restore the file"):
            made.json("report.json")


def test_two_makers_at_once(store):
    draft = store.draft("corpus", "docs", step="ingest")
    with draft:
        with pytest.raises(BusyError, match="making corpus/docs"):
            with store.draft("corpus", "docs", step="ingest"):
                pass


def test_scratch_is_dropped_at_publication(store):
    draft = store.draft("encoder", "e", step="distil")
    with draft:
        draft.write_bytes("_checkpoints/1.bin", b"x")
        draft.write_bytes("model.safetensors", b"y")
        artefact = draft.publish()
    assert artefact.files() == ["model.safetensors"] and not (artefact.local() / "_checkpoints").exists()


def test_an_empty_artefact_is_refused(store):
    draft = store.draft("corpus", "docs", step="ingest")
    with draft, pytest.raises(StorageError, match="no data files"):
        draft.publish()


def test_pickled_drafts_write_into_the_same_artefact(store):
    draft = store.draft("corpus", "docs", step="ingest")
    with draft:
        pickle.loads(pickle.dumps(draft)).write_json("a.json", {"a": 1})
        assert pickle.loads(pickle.dumps(draft.publish())).json("a.json") == {"a": 1}


def test_lineage_and_licences(store):
    corpus = make(store)
    queries = make(store, kind="queries", name="q", inputs={"corpus": corpus}, licence="CC0")
    lines = list(lineage_lines(queries))
    assert len(lines) == 2 and "queries/q" in lines[0] and "corpus: corpus/docs" in lines[1]
    assert licences(queries) == ["CC0", "MIT"]


def test_a_store_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        open_store(str(tmp_path / "file"))
