"""The search page and the API page: single files with their style and script inside, and a policy that allows nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache
from importlib import resources

from starlette.responses import Response

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


@lru_cache
def _page(name: str) -> tuple[bytes, dict[str, str]]:
    """A page's bytes and headers; its inline script and style are allowed by their hashes."""
    html = (resources.files("retort.serving") / "page" / name).read_text("utf-8")
    allowed: dict[str, list[str]] = {"script": [], "style": []}
    for kind, content in _INLINE.findall(html):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        allowed[kind].append(f"'sha256-{digest}'")
    policy = (
        f"default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        f"script-src {' '.join(allowed['script']) or chr(39) + 'none' + chr(39)}; style-src {' '.join(allowed['style'])}"
    )
    headers = {"content-security-policy": policy, "referrer-policy": "no-referrer", "cache-control": "no-cache"}
    return html.encode(), headers


def page_response(name: str) -> Response:
    """One page, as it lies in the package's page/ folder."""
    body, headers = _page(name)
    return Response(body, headers=headers, media_type="text/html; charset=utf-8")
