from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

import pytest

from jitaccess.kernel.deadline import deadline

pytestmark = pytest.mark.pure


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


class Pauses(selectors.DefaultSelector):
    """What a loop would wait for its next timer has passed at once, and no time passes otherwise: no machine is slow."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.passed += timeout or 0.0
        return super().select(timeout and 0)


class Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.pauses = Pauses()
        super().__init__(self.pauses)

    def time(self) -> float:
        return self.pauses.passed


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


@pytest.mark.parametrize("late", [0.0, 0.03, 1.0])
def test_many_tasks_share_a_timer_and_each_has_its_own_end(late: float) -> None:
    over: dict[float, float] = {}

    async def one(seconds: float) -> None:
        with pytest.raises(TimeoutError), deadline(seconds):
            await asyncio.Event().wait()
        over[seconds] = asyncio.get_running_loop().time()

    async def work(pauses: Pauses) -> None:
        tasks = [asyncio.create_task(one(seconds)) for seconds in (0.06, 0.02, 0.04)]
        await asyncio.sleep(0)
        pauses.passed += late  # something keeps the loop from its timers
        await asyncio.gather(*tasks)

    with asyncio.Runner(loop_factory=Loop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Loop)
        runner.run(asyncio.wait_for(work(loop.pauses), 20))
    assert over == pytest.approx({seconds: max(seconds, late) for seconds in (0.02, 0.04, 0.06)}, abs=1e-6)
    assert late or list(over) == [0.02, 0.04, 0.06]


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
