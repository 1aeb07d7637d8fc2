"""Calls that straddle the end of their grant: none is authorized at or after it, on the database's clock."""

from __future__ import annotations

import asyncio
import random
import time
from argparse import Namespace
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from bench.checks import check_upstream, codes
from bench.client import Answer, Session, drive, together
from bench.place import Place
from bench.report import Report
from bench.world import SMALL, Size, World, build, make_grants
from jitaccess.audit.models import Entry
from jitaccess.store.clock import now

OPTIONS = {
    "calls": (100_000, "at least"),
    "lanes": (16, "grants that end at about the same time"),
    "small": (0, "1: a small policy"),
}
AROUND = 1.0  # seconds before the end, and after it
WITHIN = 1.0


@dataclass(slots=True)
class _Edge:
    """One short grant and the calls around its end, which is a moment of the wall clock; of one machine, so of all."""

    grant: UUID
    end: float
    answers: list[Answer] = field(default_factory=list)


def run(place: Place, options: Namespace) -> Report:
    """Waves of short grants until enough calls were made."""
    report = Report("expiry", place.database)
    world = build(SMALL if options.small else Size())
    apart = abs((datetime.now(UTC) - now()).total_seconds())
    if apart > 0.1:
        raise SystemExit(f"The database's clock is {apart:.1f} s from this machine's; they must be one.")
    place.start(gateways=2)
    _verify(report, place, drive(_waves(place, world, options)))
    return report


async def _waves(place: Place, world: World, options: Namespace) -> list[_Edge]:
    edges: list[_Edge] = []
    choice, wave = random.Random(2), 0
    while sum(len(edge.answers) for edge in edges) < options.calls:
        pairs = []
        for lane in range(options.lanes):
            turn, who = divmod(wave * options.lanes + lane, len(world.agents))
            pairs.append((who, world.write[turn % len(world.write)]))
        start = datetime.now(UTC) + timedelta(seconds=1.3)
        ends = [start + timedelta(seconds=choice.random() / 2) for _ in pairs]
        wanted = [(world.agents[who], tool) for who, tool in pairs]
        grants = await asyncio.to_thread(make_grants, wanted, until=ends)
        new = [_Edge(grant.pk, end.timestamp()) for grant, end in zip(grants, ends, strict=True)]
        await together(
            *(
                _straddle(place.urls[lane % len(place.urls)], world.tokens[who], tool.name, edge)
                for lane, ((who, tool), edge) in enumerate(zip(pairs, new, strict=True))
            )
        )
        edges, wave = edges + new, wave + 1
    return edges


async def _straddle(url: str, token: str, tool: str, edge: _Edge) -> None:
    session = Session(url, token)
    await asyncio.sleep(max(0.0, edge.end - AROUND - time.time()))
    while time.time() < edge.end + AROUND:
        edge.answers.append(await session.call(tool))
    session.close()


def _verify(report: Report, place: Place, edges: list[_Edge]) -> None:
    everything = [one for edge in edges for one in edge.answers]
    received = check_upstream(report, place, everything)
    wall = time.time() - time.monotonic()
    late = 0.0
    for edge in edges:
        for one in edge.answers:
            sent, got = one.sent + wall - edge.end, one.got + wall - edge.end
            report.check(not one.allowed or sent < 0, f"{one.nonce} was sent {sent:.6f} s after the end and allowed")
            early = one.code == "expired" and got < 0
            report.check(not early, f"{one.nonce} was refused as expired {-got:.6f} s before the end")
            late = max([late, *(at + wall - edge.end for at in received.get(one.nonce, ()))])
    report.check(late <= WITHIN, f"a call reached the upstream {late:.3f} s after the end of its grant")
    before = _from_the_ledger(report, {edge.grant: edge.end for edge in edges})
    refused = [one.sent + wall - edge.end for edge in edges for one in edge.answers if one.code == "expired"]
    after = sorted(seconds for seconds in refused if seconds >= 0)
    hit = sum({one.code for one in edge.answers} >= {"allowed", "expired"} for edge in edges)
    report.figures |= {
        "calls": len(everything), "before": len(before), "after": len(after), "grants": len(edges), "both_sides": hit,
    }  # fmt: skip
    report.table(
        ("calls", "grants", "grants hit on both sides", "authorized", "refused as expired, sent after the end"),
        [[len(everything), len(edges), hit, len(before), len(after)]],
    )
    report.table(
        ("nearest authorization before the end", "nearest refused call after it", "within 50 ms before", "after"),
        [[_ms(min(before, default=0)), _ms(min(after, default=0)), _near(before), _near(after)]],
    )
    report.table(("answers", "latest start at the upstream after the end"), [[codes(everything), _ms(late)]])


def _from_the_ledger(report: Report, ends: dict[UUID, float]) -> list[float]:
    """Seconds by which each authorization came before the end of its grant; none may come at it or after it."""
    found = []
    entries = Entry.objects.filter(event="call.authorized", grant__isnull=False)
    for call, grant, at in entries.values_list("call", "grant", "at").iterator():
        assert grant
        found.append(ends[grant] - at.timestamp())
        report.check(found[-1] > 0, f"call {call} was authorized at {at.isoformat()}, {-found[-1]:.6f} s after the end")
    return found


def _near(distances: list[float]) -> int:
    return sum(0 <= seconds < 0.05 for seconds in distances)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"
