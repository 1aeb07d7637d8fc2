"""How many calls a second, and how long each takes: through the gateway, against the same upstream without it."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

import psutil  # type: ignore[import-untyped]

from bench.checks import check_upstream
from bench.client import Answer, Session, closed_loop, drive
from bench.place import Place
from bench.report import QUANTILES, ROOT, Report, quantiles
from bench.world import READ, SMALL, World, build
from jitaccess.audit.models import Entry

OPTIONS = {
    "seconds": (4.0, "of each measurement"),
    "rounds": (3, "of measurements, the two ways in turn"),
    "sessions": ("1,8,32", "agents at once, each with one connection"),
}


def run(place: Place, options: Namespace) -> Report:
    """Measure both ways in turn, so that what else the machine does hits both."""
    report = Report("capacity", place.database)
    world = build(SMALL)
    place.start()
    with _pass_through(place) as direct:
        _verify(report, place, drive(_measure(report, place, world, direct, options)))
    return report


@contextmanager
def _pass_through(place: Place) -> Iterator[str]:
    command = [sys.executable, "-m", "bench.passthrough", str(place.installation.var / "received-directly")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(10)


async def _measure(report: Report, place: Place, world: World, direct: str, options: Namespace) -> list[Answer]:
    rows, through = [], []
    gateway = psutil.Process(place.gateways[0].popen.pid)
    for count in map(int, options.sessions.split(",")):
        ways: dict[str, list[Answer]] = {direct: [], place.urls[0]: []}
        used = 0.0
        for url in ways:
            await _round(url, world, count, seconds=0.3)  # the first calls start things
        for _ in range(options.rounds):
            for url in ways:
                before = _processor_seconds(gateway)
                ways[url] += await _round(url, world, count, seconds=options.seconds)
                used += (_processor_seconds(gateway) - before) if url != direct else 0.0
        measured = options.seconds * options.rounds
        bare, gated = ways.values()
        rows += [
            [count, "pass-through", len(bare) / measured, *quantiles(one.seconds for one in bare), "", ""],
            [
                count, "gateway", len(gated) / measured, *quantiles(one.seconds for one in gated),
                1000 * used / len(gated), f"{len(gated) / len(bare):.2f}",
            ],
        ]  # fmt: skip
        report.figures[f"calls_per_second_{count}"] = len(gated) / measured
        through += gated
    report.table(("sessions", "way", "calls/s", *QUANTILES, "gateway CPU ms/call", "of pass-through"), rows)
    report.figures["calls"] = len(through)
    return through


async def _round(url: str, world: World, count: int, *, seconds: float) -> list[Answer]:
    sessions = [Session(url, world.tokens[number], agent=number) for number in range(count)]
    try:
        return await closed_loop(sessions, READ, seconds=seconds)
    finally:
        for session in sessions:
            session.close()


def _processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _verify(report: Report, place: Place, answers: list[Answer]) -> None:
    check_upstream(report, place, answers)
    report.check(all(one.allowed for one in answers), "a call that its agent may always make was refused")
    recorded = Entry.objects.filter(event="call.authorized").count()
    report.check(recorded >= len(answers), f"{len(answers)} calls were answered, {recorded} are in the ledger")
