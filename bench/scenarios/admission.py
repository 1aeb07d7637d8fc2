"""What a call costs the gateway's process and the database to be admitted and ended on record, without any HTTP.

Sessions admit a call, end it and begin again: batches are as large as there are sessions. Then the sequencer gives what
was written its place.
"""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from dataclasses import dataclass
from uuid import UUID

import psutil  # type: ignore[import-untyped]
import uvloop

from bench.client import SERVER
from bench.meter import database_server, processor_seconds
from bench.place import Place
from bench.report import Report, quantiles
from bench.world import READ, SMALL, Size, World, build
from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.models import Entry, Unsequenced
from jitaccess.audit.sequencer import sequence
from jitaccess.catalog.models import Server
from jitaccess.gateway.recording.admission import Admission
from jitaccess.gateway.recording.clock_guard import ClockGuard
from jitaccess.gateway.recording.facts import Intent
from jitaccess.gateway.recording.instances import register_instance
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import authenticate
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.policy.engine.arguments import arguments_digest
from jitaccess.policy.snapshots import SnapshotStore
from jitaccess.store.host_clock import steady

OPTIONS = {
    "seconds": (3.0, "of each measurement"),
    "sessions": ("1,8,32,128", "calls at once"),
    "agents": (0, "in the policy; 0: few"),
}
QUANTILES = ("p50 ms", "p99 ms")
# Made where a call is read; what it costs is not measured here.
DIGEST = arguments_digest({})
GOAL = 35.0  # µs of the gateway's process for a call, from 32 sessions on


@dataclass(frozen=True, slots=True)
class _Phase:
    sessions: int
    latencies: list[float]
    seconds: float
    loop: float  # CPU seconds of the event loop's thread
    writer: float  # and of the batch writer's
    database: float

    def microseconds(self, seconds: float) -> float:
        return 1_000_000 * seconds / max(1, len(self.latencies))


def run(place: Place, options: Namespace) -> Report:
    """In this process, with the installation's database."""
    report = Report("admission", place.database)
    world = build(Size(agents=options.agents) if options.agents else SMALL)
    report.check(not _authorized(), "the ledger is not new")
    phases = []
    for count in map(int, options.sessions.split(",")):
        phases.append(_measure(world, count, options.seconds))
        _sequence_all()
    calls = sum(len(phase.latencies) for phase in phases)
    report.check(_authorized() >= calls, "a call is not on record")
    report.table(
        ("sessions", "calls/s", "gateway µs/call", "of it event loop", "batch writer", "database µs/call", *QUANTILES),
        [_row(phase) for phase in phases],
    )
    for phase in phases:
        cost = phase.microseconds(phase.loop + phase.writer)
        report.figures[f"gateway_us_{phase.sessions}"] = cost
        report.figures[f"database_us_{phase.sessions}"] = phase.microseconds(phase.database)
        report.goal(phase.sessions < 32 or cost <= GOAL, f"{cost:.0f} µs a call at {phase.sessions} sessions")
    _tell_sequencer(report, world, options.seconds)
    return report


def _row(phase: _Phase) -> list[object]:
    p50, _, p99, _ = quantiles(phase.latencies)
    parts = (phase.loop + phase.writer, phase.loop, phase.writer, phase.database)
    rate = round(len(phase.latencies) / phase.seconds)
    return [phase.sessions, rate, *(f"{phase.microseconds(part):.1f}" for part in parts), f"{p50:.2f}", f"{p99:.2f}"]


def _authorized() -> int:
    return Entry.objects.filter(event=Event.CALL_AUTHORIZED).count()


def _measure(world: World, count: int, seconds: float) -> _Phase:
    store, instance = SnapshotStore(), register_instance()
    assert store.current
    admission = Admission(store, instance, ClockGuard())
    admission.start()
    intents = [authenticate(token) for token in world.tokens[:count]], Server.objects.get(slug=SERVER).pk
    try:
        return uvloop.run(_calls(admission, intents, count, seconds, database_server()))
    finally:
        admission.stop()


async def _calls(
    admission: Admission, who: tuple[list[Principal], UUID], count: int, seconds: float, server: psutil.Process | None
) -> _Phase:
    latencies: list[float] = []

    async def session(number: int, until: float) -> None:
        principal, turn = who[0][number % len(who[0])], 0
        while time.monotonic() < until:
            turn += 1
            given: JsonObject = {"nonce": f"{number}-{turn}"}
            intent = Intent(principal, who[1], SERVER, READ, DIGEST, given, given=given)
            began = time.monotonic()
            admitted = await admission.admit(intent)
            latencies.append(time.monotonic() - began)
            assert admitted.allowed, admitted.code
            admission.finish(admitted, Event.CALL_COMPLETED, Outcome.ALLOWED, {"bytes": 123, "isError": False})

    async def sessions(span: float) -> None:
        admission.lease_until = steady() + 600
        await asyncio.gather(*(session(number, time.monotonic() + span) for number in range(count)))

    await admission.start_lane(lambda: asyncio.to_thread(admission._store.newest))  # noqa: SLF001 - as the gateway does
    await sessions(1.0)
    latencies.clear()
    before, began = _used(admission, server), time.monotonic()
    await sessions(seconds)
    took, after = time.monotonic() - began, _used(admission, server)
    await admission.stop_lane()
    return _Phase(count, latencies, took, *(late - early for early, late in zip(before, after, strict=True)))


def _used(admission: Admission, server: psutil.Process | None) -> tuple[float, float, float]:
    """CPU seconds: of this thread, of the batch writer, of the database server with all its processes."""
    native = admission._thread.native_id  # noqa: SLF001 - its name in the system
    ticks = {one.id: one.user_time + one.system_time for one in psutil.Process().threads()}
    return time.thread_time(), ticks[native], processor_seconds(server, family=True) if server else 0.0


def _sequence_all() -> tuple[int, float]:
    """How many entries waited, and the CPU seconds of this process until none did."""
    done, began = 0, time.thread_time()
    while count := sequence():
        done += count
    return done, time.thread_time() - began


def _tell_sequencer(report: Report, world: World, seconds: float) -> None:
    _measure(world, 128, seconds)
    server = database_server()
    before = processor_seconds(server, family=True) if server else 0.0
    count, own = _sequence_all()
    after = processor_seconds(server, family=True) if server else 0.0
    report.check(not Unsequenced.objects.exists(), "an entry has no place")
    own, theirs = 1_000_000 * own / count, 1_000_000 * (after - before) / count
    head = ("sequencer", "own µs/entry", "database µs/entry")
    report.table(head, [[f"{count:,} entries", f"{own:.1f}", f"{theirs:.1f}"]])
    report.figures |= {"sequencer_us": own, "sequencer_database_us": theirs}
