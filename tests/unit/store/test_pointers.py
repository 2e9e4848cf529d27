import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retort.errors import NotFoundError
from retort.store.files import FileArea
from retort.store.pointers import Pointer


def test_a_pointer_keeps_its_history(tmp_path):
    pointer = Pointer(FileArea(str(tmp_path)))
    assert pointer.read().value is None
    assert pointer.swap(0, {"index": "a"})
    assert pointer.swap(1, {"index": "b"})
    assert pointer.read().value == {"index": "b"}
    assert pointer.read(1).value == {"index": "a"}
    with pytest.raises(NotFoundError, match="has no version 7; it has"):
        pointer.read(7)


def test_a_stale_swap_is_refused(tmp_path):
    pointer = Pointer(FileArea(str(tmp_path)))
    pointer.set("a")
    pointer.set("b")
    assert not pointer.swap(1, "late")
    assert pointer.read().value == "b"


def test_of_many_who_swap_at_once_one_succeeds_each_time(tmp_path):
    pointer = Pointer(FileArea(str(tmp_path)))
    wins: list[int] = []

    def mover(number: int) -> None:
        for version in range(10):
            while pointer.read().version < version:
                pass
            if pointer.swap(version, number):
                wins.append(version)

    threads = [threading.Thread(target=mover, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(wins) == list(range(10))


@given(values=st.lists(st.one_of(st.none(), st.integers(), st.text()), min_size=1, max_size=6))
def test_set_then_read_gives_the_value(tmp_path_factory, values):
    pointer = Pointer(FileArea(str(tmp_path_factory.mktemp("pointer"))))
    for value in values:
        pointer.set(value)
        assert pointer.read().value == value
