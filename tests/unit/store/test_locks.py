import os
import signal
import subprocess
import sys
import time

import pytest

from retort.errors import BusyError
from retort.store.files import FileArea
from retort.store.locks import lease
from retort.store.pointers import Pointer


def test_the_second_is_told_who_holds_it(tmp_path):
    pointer = Pointer(FileArea(str(tmp_path)))
    with lease(pointer, "re-indexing debian"):
        with pytest.raises(BusyError, match=rf"Process {os.getpid()} on .*re-indexing debian"):
            with lease(pointer, "again"):
                pass
    with lease(pointer, "afterwards"):
        pass


def test_a_killed_holder_is_seen_at_once(tmp_path):
    code = (
        "import sys, time; from retort.store.locks import lease; from retort.store.pointers import Pointer\n"
        "from retort.store.files import FileArea\n"
        "with lease(Pointer(FileArea(sys.argv[1])), 'x'):\n    print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    pointer = Pointer(FileArea(str(tmp_path)))
    with pytest.raises(BusyError), lease(pointer, "too early"):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with lease(pointer, "after the kill"):
        pass


def test_a_lease_is_renewed_while_it_is_held_and_expires_elsewhere(tmp_path, monkeypatch):
    pointer = Pointer(FileArea(str(tmp_path)))
    monkeypatch.setattr("retort.store.locks.socket.gethostname", lambda: "far-away")
    with lease(pointer, "long work", ttl_s=0.6):
        time.sleep(1.2)
        monkeypatch.setattr("retort.store.locks.socket.gethostname", lambda: "here")
        with pytest.raises(BusyError):
            with lease(pointer, "other host"):
                pass
    value = dict(pointer.read().value, released=False, host="far-away", expires=time.time() - 1)
    pointer.set(value)
    with lease(pointer, "expired elsewhere"):
        pass
