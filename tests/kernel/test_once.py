"""While somebody looks, a question is asked once; before and after, and in other threads, it is asked each time."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from jitaccess.kernel.once import once, once_each, one_look


@pytest.fixture
def asked() -> list[object]:
    return []


@pytest.fixture
def double(asked: list[object]) -> Callable[..., int]:
    @once
    def double(number: int, *, more: int = 0) -> int:
        asked.append((number, more))
        return 2 * number + more

    return double


def test_a_look_asks_once_for_each_question(asked: list[object], double: Callable[..., int]) -> None:
    with one_look():
        assert [double(2), double(2), double(3), double(2, more=1), double(2, more=1)] == [4, 4, 6, 5, 5]
    assert asked == [(2, 0), (3, 0), (2, 1)]


def test_nothing_is_remembered_outside_of_a_look_or_after_it(asked: list[object], double: Callable[..., int]) -> None:
    double(1), double(1)
    with pytest.raises(ValueError, match="broken"), one_look():
        double(1)
        raise ValueError("broken")
    double(1)
    with one_look():
        double(1)
    assert asked == [(1, 0)] * 5


def test_another_thread_does_not_take_part_in_the_look(asked: list[object], double: Callable[..., int]) -> None:
    with one_look():
        double(1)
        other = threading.Thread(target=double, args=(1,))
        other.start()
        other.join()
        double(1)
    assert asked == [(1, 0)] * 2


def test_what_refuses_is_asked_again() -> None:
    tried = []

    @once
    def refuse() -> None:
        tried.append(1)
        raise LookupError

    with one_look():
        for _ in range(2):
            with pytest.raises(LookupError):
                refuse()
    assert len(tried) == 2


def test_of_many_only_the_unknown_ones_are_asked_about(asked: list[object]) -> None:
    @once_each
    def squares(numbers: frozenset[int], *, times: int = 1) -> dict[int, int]:
        asked.append((sorted(numbers), times))
        return {number: times * number**2 for number in numbers}

    with one_look():
        assert squares([1, 2]) == {1: 1, 2: 4}
        assert squares(iter((2, 3))) == {2: 4, 3: 9}
        assert squares([3, 1]) == {1: 1, 3: 9}
        assert squares([3], times=2) == {3: 18}
        assert squares([]) == {}
    assert squares([1]) == {1: 1}
    assert asked == [([1, 2], 1), ([3], 1), ([3], 2), ([1], 1)]
