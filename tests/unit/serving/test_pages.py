"""The pages: one file each, nothing from elsewhere, and a policy that would stop it."""

import asyncio
import base64
import hashlib
import re

import httpx
import pytest

from retort.serving.api import create_app
from retort.serving.fakes import make_engine


@pytest.fixture(params=["/", "/docs"])
def page(request):
    engine = make_engine()

    async def get():
        transport = httpx.ASGITransport(create_app(lambda: engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(request.param)

    return asyncio.run(get())


def test_pages_are_html_with_language_viewport_and_colour_schemes(page):
    assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    for part in ('<html lang="en">', "width=device-width", "prefers-color-scheme: dark"):
        assert part in page.text


def test_nothing_is_loaded_from_elsewhere(page):
    links = re.findall(r"""(?:src|href|action|url)\s*[=(]\s*["']?([^"' )>]+)""", page.text)
    assert links and all(link.startswith(("/", "data:")) and not link.startswith("//") for link in links)
    assert "@import" not in page.text


def test_the_policy_allows_this_script_and_style_and_nothing_else(page):
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'" and "unsafe" not in str(policy)
    for kind in ("script", "style"):
        (content,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[f"{kind}-src"] == f"'sha256-{digest}'"
    assert " style=" not in page.text and not re.search(r"\son[a-z]+=", page.text)  # both would be blocked


def test_text_from_the_corpus_is_never_parsed_as_html(page):
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", page.text)
