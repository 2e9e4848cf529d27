"""The search page in a real browser: what a user sees for an address, under the page's own policy."""

import re
import shutil
import socket
import subprocess
import threading
import time

import httpx
import pytest
import uvicorn

from retort.mining.bm25 import Bm25
from retort.serving.api import create_app
from retort.serving.engine import SearchEngine
from retort.serving.fakes import PASSAGES, WordCounter, make_searcher, make_served
from retort.serving.gate import Gate
from retort.serving.keys import KeyRing
from retort.store import open_store

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")


def make_app(gate=None):
    words = Bm25.of([p["passage_id"] for p in PASSAGES], [p["text"] for p in PASSAGES])
    made = make_searcher(PASSAGES, ("base", "tuned"), words=words, reranker=WordCounter())
    engine = SearchEngine(make_served(made, examples=["read a file"], version=3))
    return create_app(lambda: engine, **({"gate": gate} if gate else {}))


def running(app):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    return f"http://127.0.0.1:{port}", server, thread


@pytest.fixture(scope="module")
def url():
    address, server, thread = running(make_app())
    yield address
    server.should_exit = True
    thread.join()


@pytest.fixture
def dom(tmp_path):
    def get(address, size="1200,900"):
        command = [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-sync",
        ]
        command += [
            "--disable-background-networking",
            "--disable-component-update",
            f"--user-data-dir={tmp_path / 'profile'}",
        ]
        command += ["--virtual-time-budget=5000", f"--window-size={size}", "--dump-dom", address]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    return get


def lists(page):
    return [
        re.findall(r"<li class=\"hit\".*?</li>", part, re.DOTALL)
        for part in re.findall(r"<ol id=.*?</ol>", page, re.DOTALL)
    ]


def test_hits_show_marked_words_times_and_stamps(url, dom):
    page = dom(f"{url}/?q=read+the+file")
    first, second = lists(page)
    assert len(first) == 5 and second == []
    assert "<mark>read</mark>" in first[0] and "<mark>file</mark>" in first[0].lower()
    assert re.search(r'class="key encode">encode [\d.]+ ms', page) and "release trial version 3" in page
    assert re.search(r'<option value="tuned">', page) and 'id="problem" role="alert" hidden' in page


def test_two_encoders_side_by_side_say_where_each_hit_is_in_the_other_list(url, dom):
    page = dom(f"{url}/?q=read+the+file&compare=tuned&hybrid=1")
    first, second = lists(page)
    assert len(first) == len(second) > 0 and 'class="pair two"' in page
    assert all("same place" in hit or "there" in hit or "only here" in hit for hit in first + second)
    assert re.search(r"\d of \d passages in both lists", page)
    assert re.findall(r"<h2><span>(\w+)</span>", page) == ["base", "tuned"]


def test_a_phone_gets_both_lists_one_below_the_other(url, dom):
    page = dom(f"{url}/?q=read+the+file&compare=tuned", size="500,900")
    assert len(lists(page)) == 2 and all(lists(page))
    narrow = httpx.get(url).text.split("@media (max-width: 46rem)")[1]
    assert ".pair.two { grid-template-columns: minmax(0, 1fr); }" in narrow.split("</style>")[0]


def test_a_mistake_is_told_on_the_page(url, dom):
    page = dom(f"{url}/?q=%01")
    assert "control character U+0001" in re.search(r'<p class="problem".*?</p>', page)[0]


def test_where_a_key_is_needed_the_page_asks_for_it(tmp_path, dom):
    address, server, thread = running(make_app(Gate(KeyRing(open_store(str(tmp_path / "store"))))))
    try:
        page = dom(f"{address}/?q=file")
        assert "An API key is needed" in page and 'id="key-form">' in page
    finally:
        server.should_exit = True
        thread.join()
