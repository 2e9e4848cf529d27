from __future__ import annotations

import gzip

import pytest

from retort.corpus.readers import Reading, open_source
from retort.corpus.readers.files import SourceFile
from retort.corpus.readers.roles import Role, role_of, without_doubles

from ..helpers import beir, write_jsonl


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("corpus.jsonl.gz", Role("corpus", "")),
        ("collection.tsv", Role("corpus", "")),
        ("corpus/part-0.parquet", Role("corpus", "")),
        ("corpus-00001-of-00003.jsonl", Role("corpus", "")),
        ("corpus.de.jsonl", Role("", "")),
        ("queries.train.jsonl.gz", Role("queries", "train")),
        ("queries.dev.small.tsv", Role("queries", "dev")),
        ("queries/validation.jsonl", Role("queries", "dev")),
        ("qrels/test.tsv", Role("qrels", "test")),
        ("qrels.eval.tsv.gz", Role("qrels", "test")),
        ("qrels.txt", Role("qrels", "")),
        ("translations.de.jsonl.gz", Role("", "")),
        ("corpus.md", Role("", "")),
        ("deep/er/corpus.jsonl", Role("", "")),
    ],
)
def test_roles_by_name(path, expected):
    assert role_of(SourceFile(path, 1)) == expected


def test_of_doubles_the_plain_and_the_small_are_kept():
    names = ["a.jsonl", "a.jsonl.gz", "queries.dev.tsv", "queries.dev.small.tsv", "b.jsonl.gz"]
    kept = [file.path for file in without_doubles([SourceFile(name, 1) for name in names])]
    assert kept == ["a.jsonl", "queries.dev.small.tsv", "b.jsonl.gz"]


def test_what_is_read_and_what_is_not(data):
    (beir(data) / "notes.md").write_text("x")
    source = open_source(str(data))
    assert source.format == "beir" and source.notes == ["not read: notes.md"]
    assert sorted(source.files) == sorted(path.name for path in data.iterdir() if path.name != "notes.md")


def test_tables_or_texts_whichever_is_more(data):
    write_jsonl(data / "rows.jsonl", [{"id": 1, "text": "x"}])
    (data / "guide").mkdir()
    (data / "guide" / "a.md").write_text("# A\n\n" + "text " * 100)
    (data / ".git").mkdir()
    (data / ".git" / "b.md").write_text("hidden")
    source = open_source(str(data))
    assert source.format == "text" and source.files == ["guide/a.md"] and source.notes == ["not read: rows.jsonl"]
    assert open_source(str(data), "jsonl").files == ["rows.jsonl"]
    [document] = source.documents()
    assert (document.document_id, document.title, document.section, document.doc_id) == (
        "guide/a.md",
        "A",
        "guide",
        "guide/a.md",
    )


def test_one_file_is_what_its_extension_says(data):
    (data / "page.html.gz").write_bytes(gzip.compress(b"<h1>T</h1><p>x"))
    assert open_source(str(data / "page.html.gz")).format == "text"
    write_jsonl(data / "corpus.jsonl", [{"_id": "a", "text": "x"}])
    assert open_source(str(data / "corpus.jsonl")).format == "jsonl"


def test_the_digest_follows_names_and_bytes_wherever_they_lie(data, tmp_path):
    path = write_jsonl(data / "a.jsonl", [{"id": 1, "text": "x"}])
    digest = open_source(str(path)).digest()
    assert open_source(str(data)).digest() == digest == open_source(f"file://{data}").digest()
    write_jsonl(path, [{"id": 1, "text": "y"}])
    assert open_source(str(path)).digest() != digest
    path.rename(data / "b.jsonl")
    write_jsonl(data / "b.jsonl", [{"id": 1, "text": "x"}])
    assert open_source(str(data)).digest() != digest


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_reading_through_a_uri_gives_the_same_documents(data, name):
    write_jsonl(data / name, ({"id": n, "text": f"grün {n}"} for n in range(50)))
    local = [(d.document_id, d.text) for d in open_source(str(data)).documents()]
    assert local == [(d.document_id, d.text) for d in open_source(f"file://{data}").documents()] and len(local) == 50


def test_a_byte_order_mark_and_windows_line_ends_are_taken_off(data):
    (data / "a.csv").write_bytes('\ufeffid,text\r\n1,"two\r\nlines"\r\n'.encode())
    [document] = open_source(str(data)).documents()
    assert (document.document_id, document.text) == ("1", "two\nlines")


def test_further_columns_become_fields(data):
    write_jsonl(data / "a.jsonl", [{"ID": "a", "Body": "x", "n": 1, "tags": ["t"], "gone": None, "odd": float("nan")}])
    [document] = open_source(str(data), reading=Reading(lang="en")).documents()
    assert document.fields == '{"n": 1, "tags": ["t"], "odd": null}' and document.lang == "en"
