"""What a process that shares a machine sets and gives back."""

import os
import subprocess
import sys

from retort.resources import give_back_memory, share_the_machine

FREED = """
import psutil, resource
from retort.resources import give_back_memory
blocks = [bytearray(60_000) for _ in range(4_000)]  # below malloc's own mapping threshold
kept = blocks[-1]
del blocks
before = psutil.Process().memory_info().rss
give_back_memory()
print(before - psutil.Process().memory_info().rss)
"""


def test_what_a_user_set_is_left_alone(monkeypatch):
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    share_the_machine()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
    assert int(os.environ["GOMP_SPINCOUNT"]) < 100_000


def test_freed_memory_goes_back_and_asking_twice_is_harmless():
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 0
    give_back_memory()
    give_back_memory()
