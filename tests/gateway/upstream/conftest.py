from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from jitaccess.gateway.upstream.config import StdioServer
from jitaccess.gateway.upstream.stdio import StdioConnection
from jitaccess.kernel.strictjson import JsonObject

FAKE = str(Path(__file__).with_name("fake_server.py"))
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def run() -> Run:
    """Run a coroutine on a fresh loop and fail when something was reported to the loop instead of to a caller."""

    def runner(work: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner() as loop_runner:
            return watched(loop_runner, work)

    return runner


def watched(loop_runner: asyncio.Runner, work: Coroutine[Any, Any, Any]) -> Any:
    reported: list[dict[str, Any]] = []
    loop_runner.get_loop().set_exception_handler(lambda _, context: reported.append(context))
    result = loop_runner.run(asyncio.wait_for(work, 30))
    assert reported == []
    return result


def fake(era: str = "modern", /, *options: str, **changes: Any) -> StdioServer:
    settings: dict[str, Any] = {
        "slug": "fake",
        "command": sys.executable,
        "args": (FAKE, era, *options),
        "env": {},
        "cwd": None,
        "start_timeout": 15,
    }
    return StdioServer(**(settings | changes))


async def call(connection: StdioConnection, name: str, *, timeout: float = 10, **arguments: Any) -> Any:  # noqa: ASYNC109
    """Return what the tool of the fake server says."""
    params: JsonObject = {"name": name, "arguments": arguments}
    return said(await connection.request("tools/call", params, timeout=timeout))


def said(result: Any) -> Any:
    return json.loads(result["content"][0]["text"])


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until `condition` holds; the time limit is that of `run`."""
    while not condition():
        await asyncio.sleep(0)


def is_gone(pid: int) -> bool:
    """A zombie is gone too: it waits for a parent that is not ours to supply."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def session_members(session: int) -> list[int]:
    """The living processes of a session, whatever their process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX" and int(fields[3]) == session:
            found.append(int(stat.parent.name))
    return found


def children() -> list[int]:
    """The living children of this process."""
    listing = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    return [pid for pid in map(int, listing.split()) if not is_gone(pid)]


def eventually(condition: Callable[[], bool], *, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
