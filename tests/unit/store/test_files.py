import errno
import os
import subprocess
import sys

import pytest

from retort.errors import NotFoundError, StorageError
from retort.store.files import FileArea


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    area = FileArea(str(tmp_path))

    def fill(target):
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match="No space left on device.*Nothing was published"):
        area.write("part.parquet", fill)
    assert list(tmp_path.iterdir()) == []
    assert not area.exists("part.parquet")


def test_listing_hides_files_still_being_written(tmp_path):
    area = FileArea(str(tmp_path))
    area.write_bytes("a/whole.bin", b"1")
    (tmp_path / "a" / "half.bin.tmp-1234").write_bytes(b"1")
    assert [item.path for item in area.list()] == ["a/whole.bin"]


def test_put_if_absent_lets_exactly_one_win(tmp_path):
    area = FileArea(str(tmp_path))
    assert area.put_if_absent("x.json", b"first")
    assert not area.put_if_absent("x.json", b"second")
    assert area.read("x.json") == b"first"


def test_put_if_absent_lets_exactly_one_process_win(tmp_path):
    code = (
        "import sys; from retort.store.files import FileArea\n"
        "print(sum(FileArea(sys.argv[1]).put_if_absent(f'{i}.json', sys.argv[2].encode()) for i in range(200)))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(3)
    ]
    assert sum(int(process.communicate()[0]) for process in processes) == 200


def test_reading_what_is_not_there_names_it(tmp_path):
    with pytest.raises(NotFoundError, match=r"gone\.txt is not there"):
        FileArea(str(tmp_path)).read("gone.txt")


def test_a_file_that_goes_while_the_folder_is_listed_is_no_error(tmp_path):
    """Another process renames its unfinished file away, or a pointer is trimmed, between looking at the names and at the files."""
    import threading

    area = FileArea(str(tmp_path))
    area.write_bytes("kept/a.json", b"{}")
    ended = threading.Event()

    def coming_and_going():
        while not ended.is_set():
            for number in range(20):
                (tmp_path / "kept" / f"{number}.json#1").write_bytes(b"")
            for number in range(20):
                (tmp_path / "kept" / f"{number}.json#1").unlink()

    thread = threading.Thread(target=coming_and_going)
    thread.start()
    try:
        assert all([item.path for item in area.list()] == ["kept/a.json"] for _ in range(300))
    finally:
        ended.set()
        thread.join()
