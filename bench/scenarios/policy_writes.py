"""Policy writes all the time while calls flow at half of what was measured: nobody starves, revokes bind at once."""

from __future__ import annotations

import asyncio
import json
import time
from argparse import Namespace
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from bench import cores, targets
from bench.checks import check_upstream
from bench.client import ALLOWED, BUSY, ECHO, Answer, Session, drive
from bench.place import Place
from bench.report import QUANTILES, ROOT, Report, quantiles
from bench.targets import Loader
from bench.world import SMALL, Size, World, add_echo, build, make_grants
from bench.writer import COMMAND

OPTIONS = {
    "seconds": (30.0, "of calls and writes"),
    "writes": (50, "policy writes a second"),
    "revokes": (5, "of these are revokes of grants in use"),
    "callers": (32, "agents that call"),
    "share": (0.5, "of the measured capacity that is called"),
    "small": (0, "1: a small policy"),
}
REFUSED_WITHIN = 100.0
LOOK_SECONDS = 0.005
# Before a revoke is due, in seconds: its agent's calls come on top of the load.
BEFORE = 0.2


@dataclass(frozen=True, slots=True)
class _Probe:
    """A grant that is revoked in the middle of its agent's calls; answers by process."""

    grant: UUID
    who: int
    tool: str
    answers: dict[str, list[Answer]] = field(default_factory=dict)

    @property
    def everything(self) -> list[Answer]:
        return [one for answers in self.answers.values() for one in answers]


@dataclass(slots=True)
class _Run:
    """What was measured, by step; each is what the loads told, one for each process. In an open loop a call counts
    from when it was due.
    """

    probes: list[_Probe]
    calls: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    rate: float = 0.0
    writes: list[dict[str, Any]] = field(default_factory=list)


def run(place: Place, options: Namespace) -> Report:
    """Capacity first, then half of it without writes, then with them."""
    report = Report("policy-writes", place.database)
    world = build(SMALL if options.small else Size())
    add_echo()
    revokes = max(1, int(options.seconds * options.revokes))
    # The callers come first, then the agents whose grants are revoked; the other half have their policy changed.
    half = (len(world.agents) - options.callers) // 2
    pairs = [(options.callers + number % half, world.write[number // half]) for number in range(revokes)]
    end = datetime.now(UTC) + timedelta(hours=6)
    grants = make_grants([(world.agents[who], tool) for who, tool in pairs], until=[end] * revokes)
    probes = [_Probe(grant.pk, who, tool.name) for grant, (who, tool) in zip(grants, pairs, strict=True)]
    with ExitStack() as stack:
        folder = place.installation.var
        record = folder / "received-over-http"
        upstream = stack.enter_context(targets.echo(folder, "echo", cores.LOAD, "--record", str(record)))
        place.add_http(ECHO, upstream.url)
        place.start(gateways=2)
        loads = [Loader(number, pinned=False) for number in range(len(place.urls))]
        for load in loads:
            stack.callback(load.close)
        measured = drive(_measure(place, world, options, probes, loads))
    _tell(report, place, measured, options, record)
    return report


async def _measure(place: Place, world: World, options: Namespace, probes: list[_Probe], loads: list[Loader]) -> _Run:
    found = _Run(probes)

    async def calls(step: str, seconds: float, rate: float) -> None:
        """Through all processes at once."""
        jobs = [
            {
                "name": url, "url": f"{url}/mcp/{ECHO}", "tool": ECHO, "era": "modern", "seconds": seconds,
                "tokens": world.tokens[number : options.callers : len(loads)],
                "sessions": options.callers // len(loads), "rate": rate / len(loads),
            }
            for number, url in enumerate(place.urls)
        ]  # fmt: skip
        run = (asyncio.to_thread(load.run, job) for load, job in zip(loads, jobs, strict=True))
        found.calls[step] = list(await asyncio.gather(*run))

    await calls("begin", 0.5, 0.0)
    await calls("capacity", min(options.seconds, 4.0), 0.0)
    found.rate = options.share * _rate(found.calls["capacity"])
    await calls("quiet", min(options.seconds, 10.0), found.rate)
    writer, start = await _start_writer(place, world, options, probes)
    written = asyncio.create_task(writer.communicate())
    watched = [
        asyncio.create_task(_watch(url, world.tokens[probe.who], probe, start + (turn + 0.5) / options.revokes))
        for turn, probe in enumerate(probes)
        for url in place.urls
    ]
    await calls("with writes", options.seconds + 1.0, found.rate)
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
        "among": options.writes // options.revokes,
        "threads": 4 if place.installation.database_url else 1,
        "grants": [str(probe.grant) for probe in probes],
        "spare": [agent.name for agent in world.agents[options.callers + half :]],
    }
    pipe = asyncio.subprocess.PIPE
    writer = await asyncio.create_subprocess_exec(*COMMAND, cwd=ROOT, stdin=pipe, stdout=pipe)
    assert writer.stdin
    assert writer.stdout
    writer.stdin.write(json.dumps(job).encode() + b"\n")
    assert await writer.stdout.readline() == b"ready\n"
    start = time.monotonic() + 1.0
    writer.stdin.write(f"{start}\n".encode())
    await writer.stdin.drain()
    return writer, start


async def _watch(url: str, token: str, probe: _Probe, revoked: float) -> None:
    """Call through one process from before the revoke is due until it has refused twice."""
    await asyncio.sleep(max(0.0, revoked - BEFORE - time.monotonic()))
    session, answers = Session(url, token, agent=probe.who), probe.answers.setdefault(url, [])
    refused = 0
    while refused < 2 and time.monotonic() < revoked + 30:  # never refused: told as a violation
        answers.append(await session.call(probe.tool))
        refused += answers[-1].code not in {ALLOWED, BUSY}
        await asyncio.sleep(LOOK_SECONDS)
    session.close()


def _tell(report: Report, place: Place, run: _Run, options: Namespace, record: Path) -> None:
    check_upstream(report, place, [one for probe in run.probes for one in probe.everything])
    codes = Counter[str]()
    for told in (one for calls in run.calls.values() for one in calls):
        codes.update(told["codes"])
        report.check(not told["lost"] and not told["wrong"], f"{told['lost']} lost; {str(told['wrong'])[:400]}")
    strange = {code: count for code, count in codes.items() if code not in {ALLOWED, BUSY}}
    report.check(not strange, f"calls that are always allowed were refused: {strange}")
    received = [line.partition(" ")[0] for line in record.read_text().splitlines()]
    report.check(len(set(received)) == len(received), "a call reached the upstream twice")
    sentence = f"{codes[ALLOWED]} calls were allowed, and {len(received)} reached the upstream"
    report.check(codes[ALLOWED] == len(received), sentence)
    _tell_calls(report, run)
    _tell_writes(report, run, options)
    _tell_revokes(report, run)


def _tell_calls(report: Report, run: _Run) -> None:
    rows = []
    for step in ("capacity", "quiet", "with writes"):
        calls = run.calls[step]
        every = Counter[str]()
        for one in calls:
            every.update(one["codes"])
        latencies = [seconds for one in calls for seconds in one["latencies"]]
        shown = ", ".join(f"{code} {count:,}" for code, count in every.most_common())
        rows.append([step, _rate(calls), *quantiles(latencies), shown])
    report.table(("calls", "calls/s", *QUANTILES, "answers"), rows)
    loaded = run.calls["with writes"]
    by_agent = [count for one in loaded for count in one["allowed"]]
    busy = sum(one["codes"].get(BUSY, 0) for one in loaded) / max(1, sum(one["answers"] for one in loaded))
    report.table(
        ("policy_busy", "allowed calls by agent, least", "most"), [[f"{busy:.2%}", min(by_agent), max(by_agent)]]
    )
    report.goal(busy < 0.01, f"{busy:.1%} of the calls were refused as {BUSY}; under 1% is wanted")
    report.check(min(by_agent) > 0, "an agent got no call through")
    reached = _rate(loaded)
    report.goal(reached > 0.95 * run.rate, f"{reached:.1f} calls a second were reached of {run.rate:.1f}")
    report.figures |= {"calls": sum(by_agent), "busy_share": busy, "least_calls": min(by_agent)}


def _rate(calls: list[dict[str, Any]]) -> float:
    return float(sum(one["inside"] / one["seconds"] for one in calls))


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
    first, used = [], 0
    committed = {write["grant"]: write["ended"] for write in run.writes if write["kind"] == "revoke"}
    for probe in run.probes:
        end = committed.get(str(probe.grant), float("inf"))
        used += any(one.allowed for one in probe.everything)
        for url, answers in probe.answers.items():
            after = [one for one in answers if one.sent > end]
            # Whoever revokes may hear of the commit later than a call does.
            refused = [max(0.0, one.got - end) for one in answers if not one.allowed and one.code != BUSY]
            report.check(bool(refused), f"grant {probe.grant} was never refused after its revoke, at {url}")
            first += [min(refused)] if refused else []
            for one in after:
                late = f"{one.nonce} was sent {one.sent - end:.4f} s after the revoke and allowed"
                report.check(not one.allowed, f"grant {probe.grant}: {late}")
    shown = quantiles(first)
    head = ("revokes", "of grants in use", "first refusals, of each process; after the commit:", *QUANTILES)
    report.table(head, [[len(committed), used, len(first), *shown]])
    report.goal(
        shown[2] <= REFUSED_WITHIN, f"p99 of the first refusal is {shown[2]:.0f} ms, wanted {REFUSED_WITHIN:.0f}"
    )
    report.figures |= {"revokes": len(committed), "revokes_in_use": used, "refused_p99_ms": shown[2]}
