"""How many calls a second, and how long each takes: through the gateway, against the same upstream without it."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import psutil  # type: ignore[import-untyped]

from bench.checks import check_upstream
from bench.client import Answer, Caller, Session, closed_loop, drive
from bench.direct import direct
from bench.meter import database_server, processor_seconds, resident
from bench.place import Place
from bench.report import QUANTILES, ROOT, Report, quantiles
from bench.world import READ, SMALL, World, build
from jitaccess.audit.models import Entry

OPTIONS = {
    "seconds": (4.0, "of each measurement"),
    "rounds": (3, "of measurements, the ways in turn"),
    "sessions": ("1,8,32,128", "agents at once, each with one connection"),
}
WARM_UP = 0.3
HEAD = (
    "sessions",
    "way",
    "calls/s",
    *QUANTILES,
    "CPU ms/call",
    "database CPU ms/call",
    "memory MiB",
    "of pass-through",
)


@dataclass(slots=True)
class _Way:
    """How calls are made, and whose processor time and memory that takes: of nobody, when nothing is in between."""

    name: str
    sessions: Callable[[int], Sequence[Caller]]
    process: psutil.Process | None = None
    server: psutil.Process | None = None
    answers: list[Answer] = field(default_factory=list)
    used: float = 0.0
    used_by_server: float = 0.0

    async def round(self, count: int, *, seconds: float) -> list[Answer]:
        sessions = self.sessions(count)
        try:
            return await closed_loop(sessions, READ, seconds=seconds)
        finally:
            for session in sessions:
                session.close()

    async def measure(self, count: int, *, seconds: float) -> None:
        own = processor_seconds(self.process) if self.process else 0.0
        server = processor_seconds(self.server, family=True) if self.server else 0.0
        self.answers += await self.round(count, seconds=seconds)
        self.used += (processor_seconds(self.process) if self.process else 0.0) - own
        self.used_by_server += (processor_seconds(self.server, family=True) if self.server else 0.0) - server

    def row(self, count: int, seconds: float, bare: float) -> list[object]:
        """The figures of `seconds`, beside a pass-through of `bare` calls a second."""
        calls, rate = len(self.answers), len(self.answers) / seconds
        return [
            count, self.name, rate, *quantiles(one.seconds for one in self.answers),
            f"{1000 * self.used / calls:.2f}" if self.process else "",
            f"{1000 * self.used_by_server / calls:.2f}" if self.server else "",
            f"{resident(self.process):.0f}" if self.process else "",
            f"{rate / bare:.2f}",
        ]  # fmt: skip


def run(place: Place, options: Namespace) -> Report:
    """Measure all ways in turn, so that what else the machine does hits each."""
    report = Report("capacity", place.database)
    most = max(map(int, options.sessions.split(",")))
    world = build(replace(SMALL, agents=max(SMALL.agents, most)))
    place.start()
    server = database_server()
    with _pass_through(place) as between:
        _verify(report, place, drive(_measure(report, place, world, between, server, options)))
    return report


@contextmanager
def _pass_through(place: Place) -> Iterator[tuple[str, psutil.Process]]:
    command = [sys.executable, "-m", "bench.passthrough", str(place.installation.var / "received-directly")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield process.stdout.readline().strip(), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


async def _measure(
    report: Report,
    place: Place,
    world: World,
    between: tuple[str, psutil.Process],
    server: psutil.Process | None,
    options: Namespace,
) -> list[Answer]:
    def over(url: str) -> Callable[[int], Sequence[Caller]]:
        return lambda count: [Session(url, world.tokens[number], agent=number) for number in range(count)]

    gateway = psutil.Process(place.gateways[0].popen.pid)
    rows, through = [], []
    async with direct(str(place.installation.var / "received-by-pipe")) as pipe:
        for count in map(int, options.sessions.split(",")):
            ways = [
                _Way("direct", lambda count: [pipe] * count),
                _Way("pass-through", over(between[0]), between[1]),
                _Way(f"gateway, {place.database}", over(place.urls[0]), gateway, server),
            ]
            for way in ways:
                await way.round(count, seconds=min(WARM_UP, options.seconds))  # the first calls start things
            for _ in range(options.rounds):
                for way in ways:
                    await way.measure(count, seconds=options.seconds)
            measured = options.seconds * options.rounds
            _, bare, gated = (len(way.answers) / measured for way in ways)
            rows += [way.row(count, measured, bare) for way in ways]
            report.figures[f"calls_per_second_{count}"] = gated
            through += ways[-1].answers
    report.compared(HEAD, rows)
    report.figures["calls"] = len(through)
    return through


def _verify(report: Report, place: Place, answers: list[Answer]) -> None:
    check_upstream(report, place, answers)
    report.check(all(one.allowed for one in answers), "a call that its agent may always make was refused")
    recorded = Entry.objects.filter(event="call.authorized").count()
    report.check(recorded >= len(answers), f"{len(answers)} calls were answered, {recorded} are in the ledger")
