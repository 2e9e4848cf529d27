"""One local Ray instance for all tests of this folder."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def ray_session():
    from retort.runtime.connecting import connected

    with connected():
        yield
