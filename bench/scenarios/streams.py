"""Many open event streams in one process: what each costs, how soon all hear of a change, what calls notice of it."""

from __future__ import annotations

import asyncio
import resource
import time
from argparse import Namespace
from dataclasses import dataclass, field, replace

import psutil  # type: ignore[import-untyped]

from bench.client import SERVER, Session, Wrong, closed_loop, drive, new_nonce
from bench.meter import processor_seconds, resident
from bench.place import Place
from bench.report import QUANTILES, Report, quantiles
from bench.world import LARGE, OPERATOR, READ, SMALL, World, build
from jitaccess.catalog.models import AccessClass, Tool
from jitaccess.catalog.services import classify_tool

OPTIONS = {
    "streams": (10_000, "open at once, each of another agent"),
    "changes": (3, "of the list that every stream is told of"),
    "seconds": (2.0, "of calls without streams, and with them"),
    "small": (0, "1: a small policy"),
}
AT_ONCE = 100
KILOBYTES = 30
WITHIN = 30.0
CALLERS = 4
_ACKNOWLEDGED, _CHANGED = b"notifications/subscriptions/acknowledged", b"notifications/tools/list_changed"


class _Stream(asyncio.Protocol):
    """One stream; `told` are moments on CLOCK_MONOTONIC."""

    __slots__ = ("opened", "request", "told", "transport")

    def __init__(self, request: bytes) -> None:
        self.request, self.told = request, list[float]()
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's is one by its methods only
        transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if not self.opened.done() and _ACKNOWLEDGED in data:
            self.opened.set_result(None)
        self.told += [time.monotonic()] * data.count(_CHANGED)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(error or Wrong("a stream ended before it began"))
        self.transport = None


@dataclass(slots=True)
class _Found:
    before: float = 0.0
    opened: float = 0.0
    after: float = 0.0
    took: float = 0.0
    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    told: list[list[float]] = field(default_factory=list)
    used: list[float] = field(default_factory=list)
    lost: int = 0


def run(place: Place, options: Namespace) -> Report:
    """Memory before and after they were opened; then the changes."""
    report = Report("streams", place.database)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the gateway's too
    size = SMALL if options.small else LARGE
    world = build(replace(size, agents=max(size.agents, options.streams)))
    place.start()
    found = drive(_measure(place, world, options))
    _tell(report, found, options)
    return report


async def _measure(place: Place, world: World, options: Namespace) -> _Found:
    process, url = psutil.Process(place.gateways[0].popen.pid), place.urls[0]
    callers = [Session(url, world.tokens[number], agent=number) for number in range(CALLERS)]
    await closed_loop(callers, READ, seconds=min(0.5, options.seconds))
    found = _Found(before=resident(process))
    found.alone = [one.seconds for one in await closed_loop(callers, READ, seconds=options.seconds)]
    for caller in callers:
        caller.close()  # so long idle, they would be let go
    began = time.monotonic()
    streams = await _open(url, world, options.streams)
    found.took, found.opened = time.monotonic() - began, resident(process)
    callers = [Session(url, world.tokens[number], agent=number) for number in range(CALLERS)]
    await closed_loop(callers, READ, seconds=min(0.5, options.seconds))
    found.beside = [one.seconds for one in await closed_loop(callers, READ, seconds=options.seconds)]
    for change in range(options.changes):
        used = processor_seconds(process)
        committed = await asyncio.to_thread(_change)
        deadline = time.monotonic() + WITHIN
        while time.monotonic() < deadline and any(len(one.told) <= change for one in streams):  # noqa: ASYNC110 - of many
            await asyncio.sleep(0.05)
        found.told.append([one.told[change] - committed for one in streams if len(one.told) > change])
        found.used.append(processor_seconds(process) - used)
    found.after = resident(process)
    found.lost = sum(one.transport is None for one in streams)
    for one in streams:
        if one.transport:
            one.transport.close()
    for caller in callers:
        caller.close()
    return found


async def _open(url: str, world: World, count: int) -> list[_Stream]:
    """So many at a time; each is acknowledged before the next ones follow."""
    loop, streams = asyncio.get_running_loop(), list[_Stream]()
    host, _, port = url.removeprefix("http://").partition(":")
    for first in range(0, count, AT_ONCE):
        some = []
        for number in range(first, min(first + AT_ONCE, count)):
            asked = {"notifications": {"toolsListChanged": True}}
            request = Session(url, world.tokens[number]).message("subscriptions/listen", new_nonce(), asked)
            some.append(_Stream(request))
            await loop.create_connection(lambda stream=some[-1]: stream, host, int(port))  # type: ignore[misc]
        async with asyncio.timeout(60):
            await asyncio.gather(*(one.opened for one in some))
        streams += some
    return streams


def _change() -> float:
    """A tool that everybody sees becomes one that needs a grant, or the other way round. The moment of the commit."""
    tool = Tool.objects.select_related("server").get(server__slug=SERVER, name="read-1")
    access = AccessClass.READ if tool.access == AccessClass.WRITE else AccessClass.WRITE
    classify_tool(tool=tool, access=access, operator=OPERATOR)
    return time.monotonic()


def _tell(report: Report, found: _Found, options: Namespace) -> None:
    each = (found.opened - found.before) * 1024 / options.streams
    head = ("streams", "opened in, s", "memory before, MiB", "with them, MiB", "after the changes, MiB", "KiB each")
    report.table(head, [[options.streams, found.took, found.before, found.opened, found.after, each]])
    report.goal(each * 1.024 <= KILOBYTES, f"a stream takes {each * 1.024:.1f} KB, wanted {KILOBYTES}")
    rows = []
    for number, (told, used) in enumerate(zip(found.told, found.used, strict=True), 1):
        rows.append([number, len(told), *quantiles(told), used])
        report.check(len(told) == options.streams, f"of change {number} {len(told)} streams were told")
    report.table(("change", "streams told; after the commit:", *QUANTILES, "CPU, s"), rows)
    calls = [[name, len(times), *quantiles(times)] for name, times in (("no", found.alone), ("all", found.beside))]
    report.table(("calls beside so many streams", "count", *QUANTILES), calls)
    report.check(not found.lost, f"{found.lost} streams ended")
    report.figures |= {"kilobytes_each": each * 1.024, "told": [len(told) for told in found.told]}
