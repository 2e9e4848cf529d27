"""Poisoned items are found by halving; errors that are no item's fault are raised."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from retort.errors import StorageError
from retort.teaching.quarantine import isolate, quarantine_name


class Work:
    """Doubles numbers, refuses those in `poison`, counts its calls."""

    def __init__(self, poison: set[int], error: Exception | None = None) -> None:
        self.poison, self.error, self.calls = poison, error or ValueError("bad number"), 0

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.calls += 1
        if self.poison & set(items):
            raise self.error
        return [2 * item for item in items]


def test_clean_items_take_one_call() -> None:
    work = Work(set())
    assert isolate(work, [1, 2, 3]) == ([2, 4, 6], {})
    assert work.calls == 1


@pytest.mark.parametrize("poison", [{0}, {7}, {3, 4}, {0, 63}, set(range(64))])
def test_each_poisoned_item_is_named_and_no_other_is_lost(poison: set[int]) -> None:
    results, reasons = isolate(Work(poison), list(range(64)))
    assert set(reasons) == poison
    assert results == [None if item in poison else 2 * item for item in range(64)]
    assert set(reasons.values()) == {"ValueError: bad number"}


def test_one_poisoned_item_among_many_costs_a_logarithm_of_calls() -> None:
    work = Work({700})
    isolate(work, list(range(1024)))
    assert work.calls <= 2 * 10 + 1


def test_no_items_no_calls() -> None:
    work = Work(set())
    assert isolate(work, []) == ([], {})
    assert work.calls == 0


@pytest.mark.parametrize("error", [MemoryError(), StorageError("disk full"), RuntimeError("CUDA error")])
def test_errors_of_the_machine_are_raised(error: Exception) -> None:
    with pytest.raises(type(error)):
        isolate(Work({1}, error), [0, 1, 2])


def test_the_quarantine_file_is_named_after_its_part() -> None:
    assert quarantine_name("part-00012.parquet") == "quarantine-00012.parquet"
