"""Each thing that can be wrong with a user's data: one clear InputError, and nothing published."""

from __future__ import annotations

import errno
import gzip
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retort.corpus.labels import Labels
from retort.corpus.readers.rows import Place, QrelRow
from retort.errors import InputError, NotFoundError, StorageError

from .helpers import beir, sentence, write_jsonl, write_qrels


@pytest.fixture
def refused(run, store):
    """Run ingest, expect an InputError that says all of this, and an empty store."""

    def check(source, *parts: str, error: type[Exception] = InputError, **fields) -> str:
        with pytest.raises(error) as caught:
            run(source, **fields)
        message = str(caught.value)
        for part in parts:
            assert part in message, message
        assert "\n" not in message
        published = [path for path in Path(store).rglob("*") if path.is_file() and "locks" not in path.parts]
        assert published == []
        return message

    return check


def test_missing_path(data, refused):
    refused(data / "nowhere", "There is nothing at", "nowhere", error=NotFoundError)


def test_folder_without_files(data, refused):
    refused(data, "holds no files")


def test_folder_with_nothing_that_fits(data, refused):
    (data / "picture.png").write_bytes(b"x")
    refused(data, "picture.png", "corpus.jsonl", ".parquet", ".md")


def test_format_that_is_not_there(data, refused):
    refused(beir(data), "looks like beir, not msmarco", format="msmarco")
    (data / "sub").mkdir()
    (data / "sub" / "a.csv").write_text("id,text\n1,x\n")
    refused(data / "sub", "is not a beir folder", "corpus.jsonl", "a.csv", format="beir")
    refused(data / "sub", "holds no parquet files", format="parquet")


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.train.jsonl", "qrels.test.tsv"])
def test_empty_file(data, refused, name):
    (beir(data) / name).write_bytes(b"")
    refused(data, f"{data}/{name} is empty")


def test_empty_corpus(data, refused):
    (beir(data) / "corpus.jsonl").write_text("\n\n")
    refused(data, "holds no passage with text")
    refused(
        write_jsonl(data / "void.jsonl", [{"id": 1, "text": " "}]), "no passage with text", "1 rows, all without text"
    )


def test_wrong_columns(data, refused):
    refused(
        write_jsonl(data / "a.jsonl", [{"id": 1, "words": "x"}]),
        "a.jsonl:1",
        "id, words",
        "expected one of text, contents",
        "columns.text",
    )
    refused(
        write_jsonl(data / "b.jsonl", [{"id": 1, "text": "x"}]),
        "no column 'wörter' (columns.text)",
        columns={"text": "wörter"},
    )
    (data / "c.csv").write_text("foo,bar\n1,2\n")
    refused(data / "c.csv", "c.csv:1", "foo, bar", "id,title,text")
    (data / "d.csv").write_text("id,text,id\n1,2,3\n")
    refused(data / "d.csv", "names column 'id' twice")


def test_a_row_that_lacks_the_text_column(data, refused):
    refused(
        write_jsonl(data / "a.jsonl", [{"id": 1, "text": "x"}, {"id": 2}]),
        "a.jsonl:2",
        "no column holds the passage text",
    )


def test_text_that_is_no_string(data, refused):
    refused(
        write_jsonl(data / "a.jsonl", [{"id": 1, "text": {"de": "x"}}]),
        "a.jsonl:1",
        "the text is dict",
        "expected a string",
    )


@pytest.mark.parametrize("value", [None, "", 1.5, True, ["x"]])
def test_ids_that_are_no_ids(data, refused, value):
    refused(
        write_jsonl(data / "a.jsonl", [{"id": value, "text": "x"}]),
        "a.jsonl:1",
        "the passage id",
        "expected a non-empty string",
    )


def test_duplicate_passage_ids(data, refused):
    with (beir(data) / "corpus.jsonl").open("a") as handle:
        handle.write('{"_id": "d7", "text": "again"}\n')
    refused(data, "'d7' is there twice", "corpus.jsonl:8 and at", "corpus.jsonl:41")


def test_duplicate_query_ids(data, refused):
    with (beir(data) / "queries.test.jsonl").open("a") as handle:
        handle.write('{"_id": "q3", "text": "again"}\n')
    refused(data, "'q3' is there twice", "queries.test.jsonl:6", "queries.train.jsonl:4")


def test_qrels_of_unknown_passages_and_queries(data, refused, run):
    with (beir(data) / "qrels.test.tsv").open("a") as handle:
        handle.write("".join(f"q25\tx{n}\t1\n" for n in range(7)))
    refused(
        data,
        "7 passage ids",
        "the 40 passages",
        "'x0', 'x1', 'x2', 'x3', 'x4' and 2 more",
        "qrels.test.tsv:7",
        "unknown_qrels",
    )
    with (data / "qrels.train.tsv").open("a") as handle:
        handle.write("nobody\td1\t1\n")
    refused(data, "1 query ids", "'nobody'", "qrels.train.tsv:22")
    made = run(data, unknown_qrels="drop")
    assert made["corpus"].metrics["qrels_dropped"] == 7


def test_qrels_without_queries(data, refused):
    write_jsonl(data / "corpus.jsonl", [{"_id": "a", "text": "x"}])
    write_qrels(data / "qrels.tsv", [("q", "a", 1)])
    refused(data, "has qrels (qrels.tsv) but no queries")


@pytest.mark.parametrize("grade", ["1.0", "yes", "", "99999999999"])
def test_grades_that_are_no_integers(data, refused, grade):
    with (beir(data) / "qrels.test.tsv").open("a") as handle:
        handle.write(f"q25\td30\t{grade}\n")
    refused(data, "qrels.test.tsv:7", "grade", "whole number")


def test_a_broken_grade_in_the_first_line_is_no_header(data, refused):
    (beir(data) / "qrels.test.tsv").write_text("q25\td25\t1.5\n")
    refused(data, "qrels.test.tsv:1", "'1.5'")


def test_qrels_with_too_few_columns_or_two_grades(data, refused):
    (beir(data) / "qrels.test.tsv").write_text("q25 d25\n")
    refused(data, "qrels.test.tsv:1", "2 columns")
    (data / "qrels.test.tsv").write_text("q25\td25\t1\nq25\td25\t0\n")
    refused(data, "have grade 1", "qrels.test.tsv:1 and 0 at", "qrels.test.tsv:2")


def test_a_query_without_text(data, refused):
    with (beir(data) / "queries.dev.jsonl").open("a") as handle:
        handle.write('{"_id": "q99", "text": " "}\n')
    refused(data, "queries.dev.jsonl:6", "query 'q99' has no text")


def test_bytes_that_are_not_utf8(data, refused):
    good = '{"id": 1, "text": "grün"}\n'.encode()
    (data / "a.jsonl").write_bytes(good + '{"id": 2, "text": "grün"}\n'.encode("latin1"))
    refused(data / "a.jsonl", "a.jsonl:2", f"byte {len(good) + 21}", "0xfc", "not UTF-8", "iconv")
    (data / "b.md").write_bytes(b"# T\n\n\xff\n")
    refused(data / "b.md", "b.md:3", "byte 5 ")


def test_a_line_of_five_megabytes(data, refused, run):
    write_jsonl(data / "a.jsonl", [{"id": 1, "text": "x"}, {"id": 2, "text": "y" * 5_000_000}])
    refused(data / "a.jsonl", "a.jsonl:2", "longer than 5,000,000 bytes", "max_line_bytes")
    write_jsonl(data / "b.jsonl", [{"id": 1, "text": "x " * 1000}])
    refused(data / "b.jsonl", "b.jsonl:1", "longer than 1,500 bytes", max_line_bytes=1500)
    assert run(data / "b.jsonl", max_line_bytes=3000, make_queries=False)["corpus"].manifest.rows > 1


def test_bad_json_names_the_line(data, refused):
    (data / "a.jsonl").write_text('{"id": 1, "text": "x"}\n{"id": 2, "text": }\n')
    refused(data / "a.jsonl", "a.jsonl:2: not JSON", "column 19")
    (data / "b.jsonl").write_text('["x"]\n')
    refused(data / "b.jsonl", "b.jsonl:1", "a JSON list where an object was expected")
    (data / "c.jsonl").write_text("[" * 100_000 + "\n")
    refused(data / "c.jsonl", "c.jsonl:1: not JSON")


def test_corrupt_gzip(data, refused):
    packed = gzip.compress(b'{"id": 1, "text": "' + os.urandom(5000).hex().encode() + b'"}\n')
    (data / "a.jsonl.gz").write_bytes(packed[:-200])
    refused(data / "a.jsonl.gz", "a.jsonl.gz is not a whole gzip file")
    (data / "b.jsonl.gz").write_bytes(b"plain text\n")
    refused(data / "b.jsonl.gz", "b.jsonl.gz is not a whole gzip file")
    (data / "c.jsonl.gz").write_bytes(packed[:100] + b"\0\0\0\0" + packed[104:])
    refused(data / "c.jsonl.gz", "c.jsonl.gz")


def test_lone_surrogates_and_nul(data, refused):
    (data / "a.jsonl").write_text('{"id": 1, "text": "ab\\ud800c"}\n')
    refused(data / "a.jsonl", "a.jsonl:1", "lone surrogate, \\ud800 (at character 3)")
    (data / "b.jsonl").write_text('{"id": 1, "text": "x", "tag": "\\udfff"}\n')
    refused(data / "b.jsonl", "b.jsonl:1", "lone surrogate")
    (data / "c.jsonl").write_text('{"id": "a\\u0000b", "text": "x"}\n')
    refused(data / "c.jsonl", "c.jsonl:1", "passage id", "NUL character")
    (data / "d.txt").write_text("x\0y")
    refused(data / "d.txt", "NUL character")


def test_csv_that_is_broken(data, refused):
    (data / "a.csv").write_text('id,text\n1,"open\n2,x\n')
    refused(data / "a.csv", "a.csv:", "a quote was opened and not closed")
    (data / "b.csv").write_text("id,text\n1,x,y\n")
    refused(data / "b.csv", "b.csv:2", "3 cells, expected 2 (id, text)")
    (data / "c.tsv").write_text("1\t2\t3\t4\t5\n")
    refused(data / "c.tsv", "c.tsv:1", "5 cells between tabs", "id<tab>text")


def test_parquet_that_is_broken(data, refused):
    (data / "a.parquet").write_bytes(b"PAR1 and no more")
    refused(data / "a.parquet", "a.parquet is not a Parquet file")
    pq.write_table(pa.table({"id": [1], "words": ["x"]}), data / "b.parquet")
    refused(data / "b.parquet", "b.parquet:1", "id, words")
    pq.write_table(
        pa.table({"id": [1], "text": pa.array([b"\xff"], pa.binary()).view(pa.string())}), data / "c.parquet"
    )
    refused(data / "c.parquet", "c.parquet", "not UTF-8")


def test_unknown_split(data, refused):
    refused(
        write_jsonl(data / "a.jsonl", [{"id": 1, "text": "x", "query": "q", "split": "left"}]),
        "a.jsonl:1",
        "split is 'left'",
        "train",
    )


def test_too_little_to_make_queries_of(data, refused):
    rows = [{"id": n, "text": "too short"} for n in range(5)]
    refused(
        write_jsonl(data / "a.jsonl", rows),
        "no queries for train, dev, test",
        "only 0 of its 5 documents",
        "make_queries: false",
    )


def test_too_few_labelled_queries_to_hold_out(data, refused):
    refused(beir(data, queries={"train": 2}), "only 2 documents", "hold out dev and test", "queries.dev.jsonl")


def test_an_id_that_a_cut_document_would_take(data, refused):
    rows = [{"id": "a", "text": " ".join(sentence(n, 10) for n in range(6))}, {"id": "a~1", "text": "x"}]
    refused(write_jsonl(data / "a.jsonl", rows), "'a~1'", "split_documents: never", max_words=30)


def test_unreadable_uri(refused):
    refused("gopher://x/y", "Source URI 'gopher://x/y' cannot be opened", "s3://bucket/folder")


def test_a_full_disk_publishes_nothing(data, run, store, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(StorageError, match="No space left"):
        run(beir(data))
    assert not list(Path(store).rglob("manifest.json"))


def test_labels_refuse_a_pair_with_two_grades_only_in_one_split():
    labels = Labels()
    labels.add_qrel(QrelRow("q", "d", 1, Place("a", 1), "train"))
    labels.add_qrel(QrelRow("q", "d", 2, Place("b", 1), "test"))
    assert len(labels.qrels["q"]) == 2
