"""One process from its start to its end, as its server sees it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from jitaccess.gateway.core import Gateway
from jitaccess.gateway.talking.mail import Postbox
from jitaccess.runtime.asgi import Switch
from jitaccess.runtime.background import Background

pytestmark = pytest.mark.pure


class Broken:
    alive = True

    def start(self) -> None: ...

    def stop(self) -> None:
        raise RuntimeError("this part is broken")


class Slow:
    """Stands for a gateway that has something to write yet."""

    known: Any = None

    def __init__(self) -> None:
        self.broken, self.written, self.mail = asyncio.Event(), False, Postbox()

    async def start(self) -> None: ...

    async def stop(self) -> None:
        await asyncio.wait_for(self.broken.wait(), 10)
        self.written = True


def test_a_part_that_fails_to_stop_does_not_cut_short_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> tuple[list[str], bool]:
        background, gateway = Broken(), Slow()
        loop = asyncio.get_running_loop()

        def stop() -> None:
            loop.call_soon_threadsafe(gateway.broken.set)
            Broken.stop(background)

        background.stop = stop  # type: ignore[method-assign]
        switch = Switch(
            role="up", gateway=cast("Gateway", gateway), web=False, background=cast("Background", background)
        )
        said: list[str] = []

        async def send(event: Any) -> None:
            said.append(event["type"])

        events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive() -> Any:
            return next(events)

        await switch({"type": "lifespan"}, receive, send)
        return said, gateway.written

    said, written = asyncio.run(work())
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert written
    assert "this part is broken" in caplog.text
