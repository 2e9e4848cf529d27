"""The step on every format, its splits, made queries, and when work is skipped."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retort.corpus.ingest import IngestConfig, default_name, ingest
from retort.corpus.lookup import Passages
from retort.corpus.passages import content_hash
from retort.corpus.queries import QuerySet
from retort.errors import ConfigError, InputError
from retort.store.schemas import PASSAGE, QREL, QUERY

from .helpers import beir, sentence, write_jsonl, write_qrels


def test_beir_gives_corpus_and_three_splits(data, run):
    made = run(beir(data))
    assert set(made) == {"corpus", "train", "dev", "test"}
    assert [made[name].name for name in ("corpus", "train", "test")] == ["data", "data.train", "data.test"]
    table = made["corpus"].table()
    assert table.schema.equals(PASSAGE) and table.num_rows == 40
    row = table.slice(3, 1).to_pylist()[0]
    assert row == {
        "passage_id": "d3", "text": "The text of document number 3.", "title": "Title 3", "lang": "", "section": "", "doc_id": "d3",
        "content_hash": content_hash("Title 3", "The text of document number 3."), "fields": "{}",
    }  # fmt: skip
    test = QuerySet.open(made["test"])
    assert test.ids == [f"q{n}" for n in range(25, 30)] and test.qrels["q25"] == {"d25": 1}
    assert made["test"].input("corpus").digest == made["corpus"].digest
    assert made["train"].table("queries.parquet").schema.equals(QUERY) and made["train"].table(
        "qrels.parquet"
    ).schema.equals(QREL)


def test_a_small_corpus_has_two_even_parts_and_a_larger_one_as_many_as_it_needs(data, run):
    corpus = run(beir(data))["corpus"]
    assert [corpus.part(path).num_rows for path in corpus.parts()] == [20, 20]
    corpus = run(data, rows_per_part=15)["corpus"]
    assert [corpus.part(path).num_rows for path in corpus.parts()] == [13, 13, 14]


def test_beir_proper_with_one_queries_file_and_a_qrels_folder_packed(data, run):
    write_jsonl(data / "corpus.jsonl.gz", ({"_id": f"d{n}", "title": "", "text": f"text {n}"} for n in range(9)))
    write_jsonl(
        data / "queries.jsonl", ({"_id": f"q{n}", "text": f"question {n}", "metadata": {"n": n}} for n in range(9))
    )
    write_qrels(data / "qrels" / "train.tsv", [(f"q{n}", f"d{n}", 1) for n in range(4)])
    write_qrels(data / "qrels" / "dev.tsv", [("q4", "d4", 1), ("q4", "d5", 0)])
    write_qrels(data / "qrels" / "test.tsv", [("q5", "d5", 2), ("q6", "d6", 1)])
    made = run(data)
    train, dev, test = (QuerySet.open(made[name]) for name in ("train", "dev", "test"))
    assert train.ids == [
        "q0",
        "q1",
        "q2",
        "q3",
        "q7",
        "q8",
    ]  # q7 and q8 have no qrels: unlabelled, still useful to train on
    assert train.labelled == ["q0", "q1", "q2", "q3"]
    assert dev.qrels == {"q4": {"d4": 1, "d5": 0}} and dev.positives("q4") == ["d4"]
    assert test.qrels == {"q5": {"d5": 2}, "q6": {"d6": 1}}
    assert test.field("q5") == {"metadata": {"n": 5}}


def test_ms_marco(data, run):
    (data / "collection.tsv").write_text("".join(f'{n}\tThe passage {n} says "this.\n' for n in range(30)))
    (data / "queries.train.tsv").write_text("".join(f"{100 + n}\tquery {n}\n" for n in range(20)))
    (data / "qrels.train.tsv").write_text("".join(f"{100 + n}\t0\t{n}\t1\n" for n in range(20)))
    (data / "queries.dev.tsv").write_text("".join(f"{200 + n}\tquery {n}\n" for n in range(9)))
    (data / "queries.dev.small.tsv").write_text("".join(f"{200 + n}\tquery {n}\n" for n in range(3)))
    (data / "qrels.dev.small.tsv").write_text("".join(f"{200 + n} 0 {20 + n} 1\n" for n in range(3)))
    made = run(data)
    assert made["corpus"].metrics["format"] == "msmarco"
    assert Passages.open(made["corpus"]).texts(["7"]) == ['The passage 7 says "this.']
    assert QuerySet.open(made["dev"]).ids == ["200", "201", "202"]  # the small set, of which all are judged
    train, test = QuerySet.open(made["train"]), QuerySet.open(made["test"])
    assert len(train) == 18 and len(test) == 2 and made["test"].metrics["held_out"] is True
    assert not set(train.ids) & set(test.ids)


def test_held_out_splits_are_deterministic_and_share_no_document(data, run):
    write_jsonl(data / "corpus.jsonl", ({"_id": f"d{n}", "text": f"text {n}"} for n in range(50)))
    write_jsonl(data / "queries.jsonl", ({"_id": f"q{n}", "text": f"question {n}"} for n in range(100)))
    write_qrels(data / "qrels.tsv", ((f"q{n}", f"d{n // 2}", 1) for n in range(100)))
    first, again = run(data, name="one"), run(data, name="two", seed=14)
    sets = {name: QuerySet.open(first[name]) for name in ("train", "dev", "test")}
    assert [len(sets[name]) for name in ("train", "dev", "test")] == [80, 10, 10]
    documents = {name: {next(iter(grades)) for grades in queries.qrels.values()} for name, queries in sets.items()}
    assert (
        not documents["train"] & documents["dev"]
        and not documents["train"] & documents["test"]
        and not documents["dev"] & documents["test"]
    )
    assert QuerySet.open(again["test"]).ids != sets["test"].ids  # another seed, another division


def test_test_qrels_win_over_train_and_are_never_trained_on(data, run):
    beir(data)
    write_qrels(data / "qrels.train.tsv", [*((f"q{n}", f"d{n}", 1) for n in range(20)), ("q25", "d1", 1)])
    made = run(data)
    train, test = QuerySet.open(made["train"]), QuerySet.open(made["test"])
    assert "q25" in test.ids and "q25" not in train.ids
    assert test.qrels["q25"] == {"d25": 1}


def test_titles_become_queries_and_leave_their_passages(data, run):
    rows = (
        {"id": f"d{n}", "title": f"How to mend part {n}", "text": sentence(n, 20), "lang": "en", "price": n}
        for n in range(60)
    )
    made = run(write_jsonl(data / "manual.jsonl", rows))
    passages = Passages.open(made["corpus"])
    sets = {name: QuerySet.open(made[name]) for name in ("train", "dev", "test")}
    assert [len(sets[name]) for name in sets] == [48, 6, 6]
    assert set(sets["train"].origins) == {"title"} and set(sets["train"].langs) == {"en"}
    for queries in sets.values():
        for query_id, text in zip(queries.ids, queries.texts, strict=True):
            [passage_id] = queries.positives(query_id)
            [record] = passages.records([passage_id])
            assert record["title"] == "" and text not in record["text"]
            assert record["fields"]["left_out"] == text and record["fields"]["price"] == int(passage_id[1:])
            assert record["content_hash"] == content_hash("", record["text"])


def test_first_sentences_become_queries_where_there_are_no_titles(data, run):
    rows = ({"id": n, "text": f"Part {n} is mended with glue. {sentence(n, 12)}"} for n in range(30))
    made = run(write_jsonl(data / "manual.jsonl", rows))
    train = QuerySet.open(made["train"])
    assert set(train.origins) == {"sentence"}
    [text] = Passages.open(made["corpus"]).texts(train.positives(train.ids[0]))
    assert (
        train.texts[0].endswith("is mended with glue.")
        and "glue" not in text
        and text == sentence(int(train.ids[0].split("#")[0]), 12)
    )


def test_only_a_sample_gives_queries_and_the_rest_keeps_its_titles(data, run):
    rows = [{"id": f"d{n}", "title": f"How to mend part {n}", "text": sentence(n, 20)} for n in range(60)]
    made = run(write_jsonl(data / "manual.jsonl", rows), max_queries=20)
    assert sum(len(QuerySet.open(made[name])) for name in ("train", "dev", "test")) == 20
    titles = made["corpus"].table(columns=["title"])["title"].to_pylist()
    assert sum(1 for title in titles if title) == 40 and made["corpus"].metrics["made_queries"] == 20


def test_titles_that_several_documents_share_are_no_queries(data, run):
    rows = [
        {"id": f"d{n}", "title": "Introduction to it" if n < 10 else f"How to mend part {n}", "text": sentence(n, 20)}
        for n in range(40)
    ]
    made = run(write_jsonl(data / "manual.jsonl", rows))
    texts = {text for name in ("train", "dev", "test") for text in QuerySet.open(made[name]).texts}
    assert len(texts) == 30 and "Introduction to it" not in texts


def test_made_queries_leave_a_real_test_set_alone(data, run):
    beir(data, documents=40, queries={"test": 6})
    write_jsonl(
        data / "corpus.jsonl",
        ({"_id": f"d{n}", "title": f"How to mend part {n}", "text": sentence(n, 20)} for n in range(40)),
    )
    made = run(data)
    test = QuerySet.open(made["test"])
    assert set(test.origins) == {"user"} and len(test) == 6
    judged = {passage_id for grades in test.qrels.values() for passage_id in grades}
    learnt = {p for name in ("train", "dev") for grades in QuerySet.open(made[name]).qrels.values() for p in grades}
    assert not judged & learnt and len(learnt) == 34
    assert all(
        record["title"] for record in Passages.open(made["corpus"]).records(judged)
    )  # test passages stay as they are


def test_made_queries_of_one_page_stay_in_one_split(data, run):
    for page in range(12):
        text = "\n\n".join(f"## Step {step} of page {page}\n\n{sentence(10 * page + step, 15)}" for step in range(4))
        (data / f"page{page}.md").write_text(f"# Page {page} of the manual\n\n{text}\n")
    made = run(data)
    pages = {}
    for name in ("train", "dev", "test"):
        queries = QuerySet.open(made[name])
        assert set(queries.origins) == {"heading"}
        pages[name] = {passage_id.split("#")[0] for grades in queries.qrels.values() for passage_id in grades}
    assert not pages["train"] & pages["dev"] and not pages["train"] & pages["test"] and not pages["dev"] & pages["test"]
    record = Passages.open(made["corpus"]).records(["page3.md#step-2-of-page-3"])[0]
    assert record["doc_id"] == "page3.md" and record["fields"]["left_out"] == "Page 3 of the manual: Step 2 of page 3"


def test_long_documents_are_cut_and_their_title_stays_with_each_passage(data, run):
    rows = [
        {"id": f"d{n}", "title": f"Part {n}", "text": " ".join(sentence(100 * n + s, 10) for s in range(30))}
        for n in range(4)
    ]
    made = run(write_jsonl(data / "manual.jsonl", rows), max_words=50)
    records = Passages.open(made["corpus"]).records([f"d1~{n}" for n in range(1, 7)])
    assert {record["title"] for record in records} == {"Part 1"} and {record["doc_id"] for record in records} == {"d1"}
    left_out = records[0]["fields"]["left_out"]
    assert left_out + " " + " ".join(record["text"] for record in records) == rows[1]["text"]


def test_qrels_of_a_cut_document_name_all_its_passages(data, run):
    beir(data)
    rows = [{"_id": f"d{n}", "text": " ".join(sentence(100 * n + s, 10) for s in range(6))} for n in range(40)]
    write_jsonl(data / "corpus.jsonl", rows)
    whole = run(data)
    assert len(Passages.open(whole["corpus"])) == 40  # auto: qrels speak of these documents, so they stay
    cut = run(data, split_documents="always", max_words=30)
    assert QuerySet.open(cut["test"]).qrels["q25"] == {"d25~1": 1, "d25~2": 1}


def test_rows_with_a_query_and_a_split_are_labelled_pairs(data, run):
    rows = [
        {
            "_id": f"s{n}",
            "query": f"Heading {n}",
            "text": sentence(n, 9),
            "split": ["train", "validation", "test"][n % 3],
            "module": "m",
        }
        for n in range(30)
    ]
    made = run(write_jsonl(data / "en.jsonl.gz", rows))
    dev = QuerySet.open(made["dev"])
    assert dev.texts == [f"Heading {n}" for n in range(1, 30, 3)] and dev.qrels["s1"] == {"s1": 1}
    record = Passages.open(made["corpus"]).records(["s1"])[0]
    assert record["text"] == sentence(1, 9) and record["fields"] == {"module": "m"}


def test_files_that_are_languages_prefix_ids_and_keep_translations_in_one_split(data, run):
    for lang in ("de", "ja"):
        write_jsonl(
            data / f"help.{lang}.jsonl",
            ({"_id": f"s{n}", "query": f"{lang} {n}", "text": sentence(n, 9)} for n in range(40)),
        )
    with pytest.raises(InputError, match="set files_are_languages"):
        run(data)
    made = run(data, files_are_languages=True)
    sets = [QuerySet.open(made[name]) for name in ("train", "dev", "test")]
    assert {lang for queries in sets for lang in queries.langs} == {"de", "ja"}
    documents = [{query_id.split("/")[1] for query_id in queries.ids} for queries in sets]
    assert sum(map(len, documents)) == 40 and len(sets[2]) == 2 * len(documents[2])


def test_csv_and_parquet_with_columns_of_other_names(data, run):
    (data / "faq.csv").write_text(
        "Nr;Frage;Antwort\n" + "".join(f'{n};"Wie; geht {n}?";"Zeile {n}\nund weiter"\n' for n in range(20))
    )
    columns = {"id": "Nr", "query": "Frage", "text": "Antwort"}
    made = run(data / "faq.csv", columns=columns, lang="de")
    assert Passages.open(made["corpus"]).records(["3"], ["text", "lang"]) == [
        {"text": "Zeile 3\nund weiter", "lang": "de"}
    ]
    assert "Wie; geht 3?" in {t for name in ("train", "dev", "test") for t in QuerySet.open(made[name]).texts}
    table = pa.table(
        {
            "pid": list(range(20)),
            "title": [f"Part {n} of it" for n in range(20)],
            "body": [sentence(n, 9) for n in range(20)],
            "emb": [[0.5]] * 20,
        }
    )
    pq.write_table(table, data / "passages.parquet")
    made = run(data / "passages.parquet")
    assert Passages.open(made["corpus"]).records(["4"], ["text", "fields"])[0]["text"] == sentence(4, 9)
    assert "left out columns emb" in made["corpus"].manifest.notes


def test_tables_without_an_id_column_get_ids_from_their_lines(data, run):
    made = run(
        write_jsonl(data / "notes.jsonl", ({"title": f"Note number {n}", "text": sentence(n, 12)} for n in range(12)))
    )
    assert Passages.open(made["corpus"]).ids[:2] == ["notes-1", "notes-2"]


def test_rows_without_text_are_left_out_and_counted(data, run):
    beir(data)
    with (data / "corpus.jsonl").open("a") as handle:
        handle.write(
            '{"_id": "void", "title": "", "text": " "}\n{"_id": "only", "title": "Only a title", "text": ""}\n'
        )
    with (data / "qrels.train.tsv").open("a") as handle:
        handle.write("q1\tvoid\t1\n")
    made = run(data)
    assert made["corpus"].metrics["empty_left_out"] == 1 and made["corpus"].metrics["qrels_dropped"] == 1
    record = Passages.open(made["corpus"]).records(["only"])[0]
    assert (record["text"], record["title"]) == ("Only a title", "")


def test_a_second_run_does_nothing_and_changed_data_is_made_anew(data, store, tmp_path):
    beir(data)
    said = []

    class Listener:
        from retort.progress import QUIET

        task = QUIET.task

        def say(self, message: str) -> None:
            said.append(message)

    config = IngestConfig(store=store, source=str(data))
    first = ingest(config, Listener())
    times = {path: path.stat().st_mtime_ns for path in Path(store).rglob("*.parquet")}
    again = ingest(config, Listener())
    assert [item.key for item in again.values()] == [item.key for item in first.values()] and any(
        "already made" in line for line in said
    )
    assert times == {path: path.stat().st_mtime_ns for path in Path(store).rglob("*.parquet")}
    moved = data.rename(tmp_path / "elsewhere")
    assert (
        ingest(IngestConfig(store=store, source=str(moved)))["corpus"].key == first["corpus"].key
    )  # the bytes count, not the path
    with (moved / "corpus.jsonl").open("a") as handle:
        handle.write('{"_id": "new", "text": "one more"}\n')
    changed = ingest(IngestConfig(store=store, source=str(moved)))
    assert changed["corpus"].key != first["corpus"].key and changed["train"].key != first["train"].key


def test_a_killed_run_goes_on_and_gives_the_same_bytes(data, store, tmp_path, monkeypatch):
    beir(data)
    whole = ingest(IngestConfig(store=str(tmp_path / "whole"), source=str(data)))
    from retort.store import Draft

    write, calls = Draft.write_table, []

    def dying(self, path, table, **options):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(self, path, table, **options)

    monkeypatch.setattr(Draft, "write_table", dying)
    config = IngestConfig(store=store, source=str(data))
    with pytest.raises(KeyboardInterrupt):
        ingest(config)
    monkeypatch.setattr(Draft, "write_table", write)
    resumed = ingest(config)
    assert {name: item.digest for name, item in resumed.items()} == {name: item.digest for name, item in whole.items()}


def test_a_corpus_alone(data, run):
    made = run(
        write_jsonl(data / "notes.jsonl", [{"id": "a", "text": "x y"}, {"id": "b", "text": "z"}]), make_queries=False
    )
    assert set(made) == {"corpus"} and made["corpus"].metrics["queries"] == {"train": 0, "dev": 0, "test": 0}


def test_licences_and_personal_data_reach_the_manifests(data, run):
    made = run(beir(data), licences=["CC-BY-4.0"], personal_data="none")
    assert all(
        item.manifest.licences == ["CC-BY-4.0"] and item.manifest.personal_data == "none" for item in made.values()
    )


def test_the_sample_is_a_source_like_any_other(run):
    made = run("sample", sample_passages=60)
    assert made["corpus"].name == "sample" and made["corpus"].manifest.rows >= 60
    assert set(QuerySet.open(made["train"]).origins) == {"docstring"} and made["corpus"].metrics[
        "languages"
    ].keys() == {"en"}


def test_a_source_by_uri(data, run):
    made = run(f"file://{beir(data)}")
    assert made["corpus"].manifest.rows == 40


def test_overlap_must_be_smaller_than_a_passage(data, run):
    with pytest.raises(ConfigError, match="overlap_words is 50"):
        run(beir(data), max_words=50, overlap_words=50)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/x/My docs.jsonl.gz", "My-docs"),
        ("s3://b/corpus/", "corpus"),
        ("sample", "sample"),
        ("/x/日本", "corpus"),
        ("a.b.csv", "a.b"),
    ],
)
def test_default_names(source, name):
    assert default_name(source) == name


def test_debian(shared_data, run):
    made = run(shared_data / "debian")
    assert made["corpus"].manifest.rows == 33_327 and len(made["corpus"].parts()) == 9
    assert [made[name].manifest.rows for name in ("train", "dev", "test")] == [26_189, 1_844, 5_294]
    assert Passages.open(made["corpus"]).records(["0ad"], ["section"]) == [{"section": "games"}]
