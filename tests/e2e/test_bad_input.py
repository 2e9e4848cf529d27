"""What goes wrong in a user's hands: one clear message, exit code 2, nothing half-published."""

import gzip
import json
import os
import subprocess
import sys

import pytest

from retort.cli import main
from retort.store import open_store
from tests.small_disk import mounted


def beir(folder, corpus=None, queries=None, qrels=None):
    folder.mkdir(exist_ok=True)
    rows = corpus or [
        {
            "_id": f"p{i}",
            "title": f"{word} of kind {i}",
            "text": f"A passage number {i} about {word} and its many uses in houses, long enough to stand as a text beside its title.",
        }
        for i, word in enumerate(["wood", "stone", "iron", "paper", "glass", "wool"] * 10)
    ]
    (folder / "corpus.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "queries.jsonl").write_text(
        "\n".join(json.dumps(row) for row in queries or [{"_id": "q1", "text": "number one"}])
    )
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "qrels" / "test.tsv").write_text(qrels or "query-id\tcorpus-id\tscore\nq1\tp1\t1\n")
    return folder


def refused(capsys, *arguments):
    """Run the command; exit code 2, one message without a traceback, no artefact."""
    assert main(list(arguments)) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message and message.startswith(f"retort {arguments[0]}: ") and message.count("\n") == 1, (
        message
    )
    assert open_store().list() == []
    return message


def test_good_input_is_taken(tmp_path, capsys):
    assert main(["ingest", "--source", str(beir(tmp_path / "d")), "--name", "docs"]) == 0
    assert "docs" in capsys.readouterr().out


def test_missing_path(tmp_path, capsys):
    assert "nowhere" in refused(capsys, "ingest", "--source", str(tmp_path / "nowhere"))


def test_empty_file(tmp_path, capsys):
    folder = beir(tmp_path / "d")
    (folder / "corpus.jsonl").write_text("")
    assert "corpus.jsonl" in refused(capsys, "ingest", "--source", str(folder))


def test_wrong_columns(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    assert "t.csv" in refused(capsys, "ingest", "--source", str(tmp_path / "t.csv"))


def test_duplicate_ids(tmp_path, capsys):
    folder = beir(
        tmp_path / "d", corpus=[{"_id": "same", "text": "one two three"}, {"_id": "same", "text": "four five six"}]
    )
    assert "'same'" in refused(capsys, "ingest", "--source", str(folder))


def test_qrels_naming_unknown_ids(tmp_path, capsys):
    folder = beir(tmp_path / "d", qrels="query-id\tcorpus-id\tscore\nq1\tabsent\t1\n")
    assert "absent" in refused(capsys, "ingest", "--source", str(folder))


def test_text_that_is_not_utf8(tmp_path, capsys):
    folder = beir(tmp_path / "d")
    with open(folder / "corpus.jsonl", "ab") as handle:
        handle.write(b'\n{"_id": "x", "text": "caf\xe9"}')
    message = refused(capsys, "ingest", "--source", str(folder))
    assert "corpus.jsonl:61" in message and "UTF-8" in message


def test_a_line_of_more_than_five_megabytes(tmp_path, capsys):
    folder = beir(tmp_path / "d")
    with open(folder / "corpus.jsonl", "a") as handle:
        handle.write("\n" + json.dumps({"_id": "long", "text": "x" * 5_100_000}))
    assert "corpus.jsonl:61" in refused(capsys, "ingest", "--source", str(folder))


def test_bad_json_names_the_line(tmp_path, capsys):
    folder = beir(tmp_path / "d")
    with gzip.open(folder / "corpus.jsonl.gz", "wt") as handle:
        handle.write('{"_id": "a", "text": "fine text"}\n{"_id": \n')
    (folder / "corpus.jsonl").unlink()
    assert "corpus.jsonl.gz:2" in refused(capsys, "ingest", "--source", str(folder))


def test_unknown_config_field_in_yaml(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("sauce: here\n")
    assert "'sauce'" in refused(capsys, "ingest", "--config", str(tmp_path / "c.yaml"))


def test_unknown_option_on_the_command_line(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["ingest", "--sauce", "here"])
    assert ended.value.code == 2 and "--sauce" in capsys.readouterr().err


def test_unknown_field_in_a_pipeline(tmp_path, capsys):
    (tmp_path / "p.yaml").write_text("name: p\nsteps:\n  read: {job: ingest, sauce: here}\n")
    message = refused(capsys, "run", str(tmp_path / "p.yaml"))
    assert "p.yaml" in message and "'read'" in message and "'sauce'" in message


def test_a_reference_to_a_later_step(tmp_path, capsys):
    (tmp_path / "p.yaml").write_text(
        "name: p\nsteps:\n  v: {job: embed, corpus: $read.corpus}\n  read: {job: ingest}\n"
    )
    assert "'$read.corpus'" in refused(capsys, "run", str(tmp_path / "p.yaml"))


def test_model_that_is_not_there(tmp_path, capsys):
    assert main(["ingest", "--source", str(beir(tmp_path / "d")), "--name", "docs"]) == 0
    capsys.readouterr()
    assert main(["embed", "--corpus", "docs", "--encoder", str(tmp_path / "no-model")]) == 2
    message = capsys.readouterr().err
    assert "no-model" in message and "Traceback" not in message
    assert open_store().list("embeddings") == []


def test_port_taken(tmp_path, capsys):
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        assert str(port) in refused(capsys, "quickstart", "--port", str(port))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one mebibyte."""
    with mounted(tmp_path / "small", "1m") as folder:
        yield folder


def test_disk_full_while_publishing(tmp_path, small_disk, capsys, monkeypatch):
    rows = [
        {"_id": f"p{i}", "title": f"title of {i}", "text": " ".join(os.urandom(8).hex() for _ in range(40))}
        for i in range(4000)
    ]
    folder = beir(tmp_path / "d", corpus=rows)
    monkeypatch.setenv("RETORT_STORE", str(small_disk / "store"))
    message = refused(capsys, "ingest", "--source", str(folder))
    assert "No space left on device" in message and "Nothing was published" in message
    assert not list(small_disk.rglob("manifest.json")) and not list(small_disk.rglob("*.tmp-*"))


@pytest.mark.slow
def test_ctrl_c_leaves_no_traceback(tmp_path):
    import signal
    import time

    process = subprocess.Popen(
        [sys.executable, "-m", "retort.cli", "run", "quickstart", "--store", str(tmp_path / "s")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    time.sleep(12)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 130 and "Interrupted" in errors and "Traceback" not in errors
