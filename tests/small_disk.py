"""A file system of a few mebibytes, to see what happens when it is full."""

import os
import subprocess
from contextlib import contextmanager

import pytest


@contextmanager
def mounted(folder, size):
    """A tmpfs of `size` ("4m") at the new `folder`; the test is skipped where this user may not mount one."""
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]).returncode
    ):
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
