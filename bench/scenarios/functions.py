"""How many functions a call enters on the gateway's event loop: no clock is read, so no load blurs it."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import uvicorn
import uvloop

from bench import cores, targets
from bench.client import ECHO, Answer, Session, drive
from bench.place import Place
from bench.report import ROOT, Report
from bench.world import SMALL, World, add_echo, build

OPTIONS = {"calls": (64, "of each agent"), "sessions": (32, "agents at once, each with one connection")}
TOP = 25
START_SECONDS = 30.0


def run(place: Place, options: Namespace) -> Report:
    """A gateway in a thread of this process, over HTTP; warm before anything is counted."""
    report = Report("functions", place.database)
    world = build(replace(SMALL, agents=max(SMALL.agents, options.sessions)))
    add_echo()
    with TemporaryDirectory() as name, targets.echo(Path(name), "echo", cores.LOAD) as upstream:
        place.add_http(ECHO, upstream.url)
        with _gateway() as (url, loop):
            answers, entered, called = drive(_counted(url, loop, world, options))
    report.check(all(answer.allowed for answer in answers), "a call was refused")
    calls = len(answers)
    rooms: Counter[str] = Counter()
    for (path, _), times in entered.items():
        rooms[_room(path)] += times
    report.table(
        ("where", "Python functions entered a call"),
        [*((room, times / calls) for room, times in rooms.most_common()), ("all", entered.total() / calls)],
    )
    report.table(
        ("function", "times a call"),
        [(f"`{_short(path)} {function}`", times / calls) for (path, function), times in entered.most_common(TOP)],
    )
    report.figures |= {"calls": calls, "python": entered.total() / calls, "c": called / calls}
    return report


async def _counted(
    url: str, loop: asyncio.AbstractEventLoop, world: World, options: Namespace
) -> tuple[list[Answer], Counter[tuple[str, str]], int]:
    """The answers; what was entered, by file and function; how many functions in C were called."""
    sessions = [Session(url, token, server=ECHO) for token in world.tokens[: options.sessions]]

    async def several(session: Session, times: int) -> list[Answer]:
        return [await session.call(ECHO) for _ in range(times)]

    async def all_of(times: int) -> list[Answer]:
        return [answer for some in await asyncio.gather(*(several(one, times) for one in sessions)) for answer in some]

    entered: Counter[tuple[str, str]] = Counter()
    called = Counter[str]()

    def look(frame: Any, event: str, _: object) -> None:
        if event == "call":
            entered[frame.f_code.co_filename, frame.f_code.co_qualname] += 1
        elif event == "c_call":
            called[event] += 1

    await all_of(5)
    loop.call_soon_threadsafe(sys.setprofile, look)
    answers = await all_of(options.calls)
    loop.call_soon_threadsafe(sys.setprofile, None)
    for session in sessions:
        session.close()
    return answers, entered, called.total()


@contextmanager
def _gateway() -> Iterator[tuple[str, asyncio.AbstractEventLoop]]:
    """What `jitaccess gateway` serves, in a thread: its URL and its event loop."""
    from django.conf import settings

    from jitaccess.gateway.core import Gateway
    from jitaccess.runtime.asgi import Switch
    from jitaccess.runtime.front import Front
    from jitaccess.runtime.protocol import Protocol
    from jitaccess.runtime.server import bind, directory

    settings.RATE_PER_MINUTE, settings.EGRESS_ALLOW = 0, ["127.0.0.1"]
    switch = Switch(role="gateway", gateway=Gateway(servers=directory()), web=False, background=None)
    front = Front(switch, proxies=(), access_log=False, short=switch.short)
    config = uvicorn.Config(
        front, http=Protocol, lifespan="on", log_config=None, access_log=False, server_header=False, proxy_headers=False
    )
    server = uvicorn.Server(config)
    listener, found = bind("127.0.0.1", 0), list[asyncio.AbstractEventLoop]()

    async def serve() -> None:
        found.append(asyncio.get_running_loop())
        await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: uvloop.run(serve()), daemon=True)
    thread.start()
    try:
        late = time.monotonic() + START_SECONDS
        while not server.started and time.monotonic() < late:
            time.sleep(0.01)
        assert server.started
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", found[0]
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)


def _short(path: str) -> str:
    return path.removeprefix(f"{ROOT}/") if path.startswith(str(ROOT)) else "/".join(Path(path).parts[-2:])


def _room(path: str) -> str:
    """The package of ours, two levels deep, or whose code it is."""
    if path.startswith(f"{ROOT}/jitaccess/"):
        return ".".join(Path(path).relative_to(ROOT).parts[:3]).removesuffix(".py")
    parts = Path(path).parts
    return parts[parts.index("site-packages") + 1] if "site-packages" in parts else "Python"
