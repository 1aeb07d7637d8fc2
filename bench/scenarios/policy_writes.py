"""Fifty policy writes a second while calls flow at half of what was measured: nobody starves, revokes bind at once."""

from __future__ import annotations

import asyncio
import json
import time
from argparse import Namespace
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from bench.checks import check_upstream, codes
from bench.client import ALLOWED, BUSY, Answer, Session, closed_loop, drive, open_loop
from bench.place import Place
from bench.report import QUANTILES, ROOT, Report, quantiles
from bench.world import READ, SMALL, Size, World, build, make_grants
from bench.writer import COMMAND

OPTIONS = {
    "seconds": (30.0, "of calls and writes"),
    "writes": (50, "policy writes a second"),
    "callers": (32, "agents that call"),
    "share": (0.5, "of the measured capacity that is called"),
    "small": (0, "1: a small policy"),
}
Due = list[tuple[float, Answer]]


@dataclass(frozen=True, slots=True)
class _Probe:
    """A grant that is revoked in the middle of its agent's calls."""

    grant: UUID
    who: int
    tool: str
    answers: list[Answer] = field(default_factory=list)


@dataclass(slots=True)
class _Run:
    """What was measured. In an open loop a call counts from when it was due."""

    probes: list[_Probe]

    capacity: list[Answer] = field(default_factory=list)
    capacity_seconds: float = 0.0
    rate: float = 0.0
    quiet: Due = field(default_factory=list)
    loaded: Due = field(default_factory=list)
    writes: list[dict[str, Any]] = field(default_factory=list)


def run(place: Place, options: Namespace) -> Report:
    """Capacity first, then half of it without writes, then with them."""
    report = Report("policy-writes", place.database)
    world = build(SMALL if options.small else Size())
    revokes = max(1, int(options.seconds))
    # The callers come first, then the agents whose grants are revoked; the other half have their policy changed.
    half = (len(world.agents) - options.callers) // 2
    pairs = [(options.callers + number % half, world.write[number // half]) for number in range(revokes)]
    end = datetime.now(UTC) + timedelta(hours=6)
    grants = make_grants([(world.agents[who], tool) for who, tool in pairs], until=[end] * revokes)
    probes = [_Probe(grant.pk, who, tool.name) for grant, (who, tool) in zip(grants, pairs, strict=True)]
    place.start(gateways=2)
    measured = drive(_measure(place, world, options, probes))
    _tell(report, place, measured, options)
    return report


async def _measure(place: Place, world: World, options: Namespace, probes: list[_Probe]) -> _Run:
    found = _Run(probes, capacity_seconds=min(options.seconds, 4.0))
    urls = place.urls
    sessions = [Session(urls[who % len(urls)], world.tokens[who], agent=who) for who in range(options.callers)]
    found.capacity = await closed_loop(sessions, READ, seconds=found.capacity_seconds)
    found.rate = options.share * len(found.capacity) / found.capacity_seconds
    until = time.monotonic() + min(options.seconds, 10.0)
    found.quiet = await open_loop(sessions, READ, rate=found.rate, until=lambda: time.monotonic() > until)
    writer, start = await _start_writer(place, world, options, probes)
    written = asyncio.create_task(writer.communicate())
    watched = [
        asyncio.create_task(_watch(place, world.tokens[probe.who], probe, start + second + 0.5))
        for second, probe in enumerate(probes)
    ]
    found.loaded = await open_loop(sessions, READ, rate=found.rate, until=written.done)
    output, _ = await written
    await asyncio.gather(*watched)
    found.writes = [json.loads(line) for line in output.splitlines()]
    return found


async def _start_writer(
    place: Place, world: World, options: Namespace, probes: list[_Probe]
) -> tuple[asyncio.subprocess.Process, float]:
    """The writing process, and when it begins. SQLite has one writer, so there it has one thread."""
    half = (len(world.agents) - options.callers) // 2
    job = {
        "rate": options.writes,
        "seconds": options.seconds,
        "threads": 4 if place.installation.database_url else 1,
        "grants": [str(probe.grant) for probe in probes],
        "spare": [agent.name for agent in world.agents[options.callers + half :]],
    }
    pipe = asyncio.subprocess.PIPE
    writer = await asyncio.create_subprocess_exec(*COMMAND, cwd=ROOT, stdin=pipe, stdout=pipe)
    assert writer.stdin
    assert writer.stdout
    writer.stdin.write(json.dumps(job).encode() + b"\n")
    if await writer.stdout.readline() != b"ready\n":
        raise SystemExit("the writing process did not start")
    start = time.monotonic() + 1.0
    writer.stdin.write(f"{start}\n".encode())
    return writer, start


async def _watch(place: Place, token: str, probe: _Probe, revoked: float) -> None:
    """Call through every process in turn from before the revoke is due until each has refused twice."""
    sessions = [Session(url, token, agent=probe.who) for url in place.urls]
    await asyncio.sleep(max(0.0, revoked - 1.5 - time.monotonic()))
    refused = [0] * len(sessions)
    while min(refused) < 2 and time.monotonic() < revoked + 30:  # never refused: told as a violation
        for number, session in enumerate(sessions):
            probe.answers.append(await session.call(probe.tool))
            refused[number] += probe.answers[-1].code not in {ALLOWED, BUSY}
        await asyncio.sleep(0.02)
    for session in sessions:
        session.close()


def _tell(report: Report, place: Place, run: _Run, options: Namespace) -> None:
    loaded = [answer for _, answer in run.loaded]
    probed = [one for probe in run.probes for one in probe.answers]
    check_upstream(report, place, [*run.capacity, *(one for _, one in run.quiet), *loaded, *probed])
    strange = [one for one in (*run.capacity, *loaded) if not one.allowed and one.code != BUSY]
    report.check(not strange, f"calls that are always allowed were refused: {codes(strange)}")
    busy = sum(one.code == BUSY for one in loaded) / max(1, len(loaded))
    by_agent = Counter(dict.fromkeys(range(options.callers), 0))
    by_agent.update(one.agent for one in loaded if one.allowed)
    report.goal(busy < 0.01, f"{busy:.1%} of the calls were refused as {BUSY}; under 1% is wanted")
    report.figures |= {"calls": len(loaded), "busy_share": busy, "least_calls": min(by_agent.values())}
    report.check(min(by_agent.values()) > 0, "an agent got no call through")
    capacity = [(one.sent, one) for one in run.capacity]
    rows = [
        [name, _rate(calls), *quantiles(one.got - due for due, one in calls), codes(one for _, one in calls)]
        for name, calls in (("capacity", capacity), ("quiet", run.quiet), ("with writes", run.loaded))
    ]
    report.table(("calls", "calls/s", *QUANTILES, "answers"), rows)
    reached = _rate(run.loaded)
    report.goal(reached > 0.95 * run.rate, f"{reached:.1f} calls a second were reached of {run.rate:.1f}")
    least, most = min(by_agent.values()), max(by_agent.values())
    report.table(("policy_busy", "allowed calls by agent, least", "most"), [[f"{busy:.2%}", least, most]])
    _tell_writes(report, run, options)
    _tell_revokes(report, run)


def _rate(calls: Due) -> float:
    return len(calls) / (max(one.got for _, one in calls) - calls[0][0]) if calls else 0.0


def _tell_writes(report: Report, run: _Run, options: Namespace) -> None:
    kinds: dict[str, list[float]] = {"all": []}
    for write in run.writes:
        for kind in ("all", write["kind"]):
            kinds.setdefault(kind, []).append(write["ended"] - write["began"])
        report.check(write["kind"] != "failed", f"a policy write failed: {write.get('error')}")
    rows = [[kind, len(times), *quantiles(times)] for kind, times in kinds.items()]
    report.table(("policy write", "count", *QUANTILES), rows)
    took = max(write["ended"] for write in run.writes) - min(write["due"] for write in run.writes)
    late = quantiles(write["began"] - write["due"] for write in run.writes)
    reached = len(run.writes) / took
    report.table(("writes/s reached", *(f"begun late, {name}" for name in QUANTILES)), [[reached, *late]])
    report.goal(
        reached > 0.95 * options.writes, f"{reached:.1f} policy writes a second were reached of {options.writes}"
    )
    report.figures |= {"writes": len(run.writes), "writes_per_second": reached}


def _tell_revokes(report: Report, run: _Run) -> None:
    first, used, committed = (
        [],
        0,
        {write["grant"]: write["ended"] for write in run.writes if write["kind"] == "revoke"},
    )
    for probe in run.probes:
        end = committed.get(str(probe.grant), float("inf"))
        after = [one for one in probe.answers if one.sent > end]
        refused = [one.got - end for one in after if not one.allowed]
        report.check(bool(refused), f"grant {probe.grant} was never refused after its revoke")
        first += [min(refused)] if refused else []
        used += any(one.allowed for one in probe.answers)
        for one in after:
            sentence = f"grant {probe.grant}: {one.nonce} was sent {one.sent - end:.4f} s after the revoke and allowed"
            report.check(not one.allowed, sentence)
    row = [len(committed), used, *quantiles(first)]
    report.table(("revokes", "of grants in use; first refusal after the commit:", *QUANTILES), [row])
    report.figures |= {"revokes": len(committed), "revokes_in_use": used}
