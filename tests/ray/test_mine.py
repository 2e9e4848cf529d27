"""From a corpus to candidates on real Ray: embeddings, index, BM25 and the encoder."""

import pyarrow as pa
import pytest

from retort.corpus.passages import content_hash
from retort.errors import IncompatibleError
from retort.indexing.build import IndexConfig, index
from retort.indexing.embed import EmbedConfig, embed
from retort.mining.mine import MineConfig, mine
from retort.models.fakes import tiny_encoder
from retort.resources import Resources
from retort.store import open_store
from retort.store.schemas import PART_QUERIES, PASSAGE, QREL, QUERY, part_name

WORDS = ["open", "close", "read", "write", "sort", "list", "file", "word", "value", "path", "name", "line"]
ONE = Resources(threads=1)


@pytest.fixture
def corpus():
    draft = open_store().draft("corpus", "docs", step="test")
    with draft:
        for number in range(2):
            rows = []
            for place in range(number * 30, number * 30 + 30):
                text = " ".join(WORDS[(place * step) % len(WORDS)] for step in range(1, 6))
                rows.append(
                    {
                        "passage_id": f"p{place:02d}", "text": text, "title": "", "lang": "en", "section": "", "doc_id": "d",
                        "content_hash": content_hash("", text), "fields": "{}",
                    }
                )  # fmt: skip
            draft.write_table(part_name(number), pa.Table.from_pylist(rows, schema=PASSAGE))
        return draft.publish(rows=60)


@pytest.fixture
def queries(corpus):
    draft = open_store().draft("queries", "docs.train", step="test", inputs={"corpus": corpus})
    count = PART_QUERIES + 20
    with draft:
        rows = [
            {
                "query_id": f"q{n:03d}",
                "text": f"{WORDS[n % 12]} {WORDS[n % 7]}",
                "lang": "en",
                "origin": "user",
                "fields": "{}",
            }
            for n in range(count)
        ]
        draft.write_table("queries.parquet", pa.Table.from_pylist(rows, schema=QUERY))
        judged = [{"query_id": f"q{n:03d}", "passage_id": f"p{n % 60:02d}", "grade": 1} for n in range(count)]
        draft.write_table("qrels.parquet", pa.Table.from_pylist(judged, schema=QREL))
        return draft.publish(rows=count)


@pytest.fixture
def embeddings(corpus, tmp_path, monkeypatch):
    """Made in this process: tests/ray/test_embed.py makes them on Ray."""

    def in_turn(worker, settings, parts, *_, **__):
        made = worker(**settings)
        return [made(part) for part in parts]

    folder = tiny_encoder(tmp_path / "tiny", WORDS)
    with monkeypatch.context() as patched:
        patched.setattr("retort.indexing.stages.map_parts", in_turn)
        return embed(EmbedConfig(corpus=corpus.uri, encoder=str(folder), precision="fp32"))


def config(corpus, queries, **fields):
    given = {"bm25_k": 4, "dense_k": 6, "random_k": 2, "precision": "fp32", "resources": ONE}
    return MineConfig(corpus=corpus.uri, queries=queries.uri, **{**given, **fields})


def test_all_sources_in_parts_of_the_queries_and_the_same_through_an_index(corpus, queries, embeddings):
    made = mine(config(corpus, queries, embeddings=embeddings.uri))
    assert made.parts() == ["part-00000.parquet", "part-00001.parquet"]
    assert made.part("part-00001.parquet")["query_id"].unique().to_pylist() == [f"q{n}" for n in range(256, 276)]
    sources = made.metrics["sources"]
    assert (sources["dense"], sources["random"], sources["labelled"]) == (276 * 6, 276 * 2, 276)
    built = index(IndexConfig(embeddings=embeddings.uri, kind="flat", resources=ONE))
    again = mine(config(corpus, queries, index=built.uri))
    assert again.uri != made.uri and again.digest == made.digest


def test_finished_parts_are_not_mined_again(corpus, queries, embeddings):
    chosen = config(corpus, queries, embeddings=embeddings.uri)
    whole = mine(chosen)
    (whole.local() / "manifest.json").unlink()
    (whole.local() / "part-00001.parquet").unlink()
    kept = (whole.local() / "part-00000.parquet").stat().st_mtime_ns
    assert mine(chosen).digest == whole.digest
    assert (whole.local() / "part-00000.parquet").stat().st_mtime_ns == kept


def test_an_encoder_of_another_passage_space_is_refused(corpus, queries, embeddings, tmp_path):
    other = tiny_encoder(tmp_path / "other", WORDS, seed=1)
    with pytest.raises(IncompatibleError, match="scores in passage space"):
        mine(config(corpus, queries, embeddings=embeddings.uri, encoder=str(other)))
