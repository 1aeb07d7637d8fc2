from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from jitaccess.kernel.deadline import deadline

pytestmark = pytest.mark.pure


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


def test_what_takes_too_long_is_ended_and_what_does_not_goes_on() -> None:
    async def work() -> None:
        with deadline(20):
            for seconds in (0.02, 0.01):
                with pytest.raises(TimeoutError), deadline(seconds):
                    await asyncio.Event().wait()
            await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run(work())


def test_many_tasks_share_a_timer_and_each_has_its_own_end() -> None:
    async def one(seconds: float, over: list[float]) -> None:
        with pytest.raises(TimeoutError), deadline(seconds):
            await asyncio.Event().wait()
        over.append(seconds)

    async def work() -> None:
        over: list[float] = []
        await asyncio.gather(*(one(seconds, over) for seconds in (0.06, 0.02, 0.04)))
        assert over == [0.02, 0.04, 0.06]

    run(work())


def test_who_cancels_the_task_gets_a_cancelled_task() -> None:
    async def wait() -> None:
        with deadline(20):
            await asyncio.Event().wait()

    async def late() -> None:
        with deadline(0):
            await asyncio.Event().wait()

    async def work() -> None:
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        both = asyncio.create_task(late())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_at(0, both.cancel)
        with pytest.raises((asyncio.CancelledError, TimeoutError)):
            await both

    run(work())


def test_another_error_is_not_hidden() -> None:
    async def work() -> None:
        with pytest.raises(ZeroDivisionError), deadline(20):
            await asyncio.sleep(0)
            raise ZeroDivisionError

    run(work())
