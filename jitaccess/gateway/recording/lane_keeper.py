"""Looking after a lane: it has a session of the database whenever that can be had."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from jitaccess.gateway.recording.lane import Lane
from jitaccess.store.onloop import connect

log = logging.getLogger(__name__)

LOOK_AFTER_SECONDS = 0.5
# How long a stop waits for a session that is being opened, and for the packet that is under way; what it says is then
# heard by nobody.
OPENING_SECONDS, LEAVE_SECONDS = 2.0, 5.0


async def keep_open(lane: Lane) -> None:
    """Give it a session whenever it has none; until then the batch writer does it all."""
    while True:
        if not lane.open:
            opening = asyncio.get_running_loop().run_in_executor(None, connect)
            try:
                lane.begin(await asyncio.shield(opening))
            except asyncio.CancelledError:
                opening.add_done_callback(_unwanted)
                await asyncio.wait({opening}, timeout=OPENING_SECONDS)  # or nobody is left to close it
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it may be over in a moment
                log.warning("calls take the slow way for now: %s", error)
        await asyncio.sleep(LOOK_AFTER_SECONDS)


def _unwanted(opening: asyncio.Future[Any]) -> None:
    """Nobody waits for the session any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


async def leave(lane: Lane, keeper: asyncio.Task[None]) -> None:
    """What is under way is waited for."""
    keeper.cancel()
    await asyncio.wait({keeper})
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(lane.idle(), LEAVE_SECONDS)
    finally:
        lane.close()
