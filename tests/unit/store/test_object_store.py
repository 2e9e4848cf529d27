"""The same store on S3's API: a moto server on loopback stands in for the bucket."""

import os

import boto3
import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer

from retort.errors import BusyError, StorageError
from retort.store import open_store


@pytest.fixture(scope="module")
def bucket():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    boto3.client("s3").create_bucket(Bucket="retort-test")
    yield "s3://retort-test"
    for name, value in before.items():
        if value is None:
            os.environ.pop(name)
        else:
            os.environ[name] = value
    server.stop()


def test_an_artefact_is_made_named_found_and_read_on_s3(bucket):
    store = open_store(f"{bucket}/a")
    draft = store.draft("corpus", "docs", step="ingest")
    with draft:
        draft.write_table("part-00000.parquet", pa.table({"x": [1, 2]}))
        assert draft.published is None and draft.has("part-00000.parquet")
        with pytest.raises(BusyError):
            with store.draft("corpus", "docs", step="ingest"):
                pass
        made = draft.publish(rows=2)
    found = store.get("docs", "corpus")
    assert found.digest == made.digest and found.table().num_rows == 2
    assert [item.name for item in store.list()] == ["docs"]
    local = found.local("part-00000.parquet")
    assert local.is_file() and local.stat().st_size == found.manifest.files[0].size_bytes
    found.verify()


def test_pointers_move_once_per_version_on_s3(bucket):
    pointer = open_store(f"{bucket}/b").pointer("live")
    assert pointer.swap(0, {"index": "a"}) and not pointer.swap(0, {"index": "b"})
    assert pointer.read().value == {"index": "a"}


def test_a_bucket_that_is_not_there_is_one_clear_error(bucket):
    draft = open_store("s3://no-such-bucket/x").draft("corpus", "docs", step="ingest")
    with pytest.raises(StorageError, match="no-such-bucket"):
        with draft:
            draft.write_table("part-00000.parquet", pa.table({"x": [1]}))
