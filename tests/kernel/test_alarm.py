"""Alarms: as timers of the event loop, thousands of which share one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from jitaccess.kernel.deadline import alarm, deadline

pytestmark = pytest.mark.pure
whose: ContextVar[str] = ContextVar("whose", default="nobody")


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


async def _gone_off(*expected: object, heard: list[object]) -> None:
    async with asyncio.timeout(10):
        while len(heard) < len(expected):
            await asyncio.sleep(0.001)
    assert heard == list(expected)


def _says(heard: list[object], what: object) -> Callable[[], None]:
    return lambda: heard.append(what)


def test_each_goes_off_once_in_the_order_of_its_time() -> None:
    async def work() -> None:
        heard: list[object] = []
        for seconds in (0.02, 0.0, 0.01):
            alarm(seconds, _says(heard, seconds))
        await _gone_off(0.0, 0.01, 0.02, heard=heard)

    run(work())


def test_one_that_was_spared_does_not_even_when_both_were_due() -> None:
    async def work() -> None:
        heard: list[object] = []

        def first() -> None:
            heard.append(1)
            second.spare()

        alarm(0.0, first)
        second = alarm(0.0, _says(heard, 2))
        gone = alarm(0.0, _says(heard, 3))
        gone.spare()
        gone.spare()
        with pytest.raises(TimeoutError), deadline(0.01):
            await asyncio.Event().wait()
        assert heard == [1]

    run(work())


def test_each_goes_off_in_the_context_in_which_it_was_set() -> None:
    async def work() -> None:
        heard: list[object] = []

        async def set_one(name: str) -> None:
            whose.set(name)
            alarm(0.0, lambda: heard.append(whose.get()))

        await asyncio.gather(*(asyncio.create_task(set_one(name)) for name in ("a", "b")))
        await _gone_off("a", "b", heard=heard)

    run(work())


def test_one_that_fails_is_told_and_holds_up_no_other() -> None:
    async def work() -> None:
        heard: list[object] = []
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

        def fail() -> None:
            raise ZeroDivisionError

        alarm(0.0, fail)
        alarm(0.0, _says(heard, "here"))
        await _gone_off("here", heard=heard)
        assert [type(one["exception"]) for one in told] == [ZeroDivisionError]

    run(work())


def test_in_the_next_event_loop_of_a_thread_they_go_off_too() -> None:
    async def work() -> None:
        heard: list[object] = []
        alarm(0.0, _says(heard, "here"))
        await _gone_off("here", heard=heard)

    run(work())
    run(work())
