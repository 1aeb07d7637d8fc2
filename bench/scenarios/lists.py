"""`tools/list` of servers with few and many tools, half of them open to the agent and half locked."""

from __future__ import annotations

import json
import time
from argparse import Namespace

import psutil  # type: ignore[import-untyped]

from bench.client import Session, Wrong, drive, together
from bench.meter import processor_seconds
from bench.place import Place
from bench.report import QUANTILES, Report, quantiles
from bench.world import LARGE, SMALL, Size, World, add_server, build
from jitaccess.gateway.builtin.definitions import DEFINITIONS
from jitaccess.gateway.seeing.listing import tools_json
from jitaccess.policy.engine.decide import Who
from jitaccess.policy.engine.rules import Subject
from jitaccess.policy.snapshots import SnapshotStore

OPTIONS = {
    "seconds": (4.0, "of each measurement"),
    "sessions": ("1,8", "agents at once, each with one connection"),
    "tools": ("10,100,1000", "of the server whose list is asked for"),
    "small": (0, "1: a small policy"),
    "large": (0, "1: a policy of 10,000 agents, 200 roles and 1,000 tools besides"),
}
MILLISECONDS = 1.0  # of processor time for a list
HEAD = ("tools", "sessions", "lists/s", *QUANTILES, "CPU ms/list", "KiB", "of which deciding, CPU ms")
REPEATS = 20


def run(place: Place, options: Namespace) -> Report:
    """A server for each number of tools; every list is compared, byte by byte, with one that was checked."""
    report = Report("lists", place.database)
    world = build(SMALL if options.small else LARGE if options.large else Size())
    sizes = [int(size) for size in options.tools.split(",")]
    for size in sizes:
        add_server(f"with-{size}", size)
    place.start()
    rows = []
    for size in sizes:
        deciding = _deciding(world, size)
        for count in map(int, options.sessions.split(",")):
            row, body = drive(_measure(place, world, size, count, options.seconds))
            rows.append([size, count, *row, len(body) / 1024, f"{deciding:.2f}"])
            _check(report, body, size)
            report.figures[f"lists_{size}_{count}"] = row[0]
            used = row[-1]
            report.goal(
                used < MILLISECONDS, f"a list of {size} tools takes {used:.2f} ms of CPU, wanted {MILLISECONDS}"
            )
    report.compared(HEAD, rows)
    return report


def _deciding(world: World, size: int) -> float:
    """Milliseconds of processor time that it takes to decide and write what an agent may see of a server."""
    who = Who(world.agents[0].pk, None)
    snapshot, at = SnapshotStore().look(Subject(agent=who.agent, user=None))
    server = snapshot.server_by_slug(f"with-{size}")
    assert server
    began = time.process_time()
    for _ in range(REPEATS):
        found = tools_json(snapshot, who=who, server=server, at=at)
    took = time.process_time() - began
    assert len(found) == size
    return 1000 * took / REPEATS


async def _measure(place: Place, world: World, size: int, count: int, seconds: float) -> tuple[list[float], bytes]:
    """Lists a second, latencies and processor time; and an answer."""
    sessions = [
        Session(place.urls[0], world.tokens[agent], agent=agent, server=f"with-{size}") for agent in range(count)
    ]
    whole = (await sessions[0].tools())[2]
    wanted, times = _list_in(whole), []
    gateway = psutil.Process(place.gateways[0].popen.pid)
    used, began = processor_seconds(gateway), time.monotonic()

    async def work(session: Session) -> None:
        while time.monotonic() < began + seconds:
            sent, got, body = await session.tools()
            times.append(got - sent)
            if _list_in(body) != wanted:
                raise Wrong(f"agent {session.agent} got another list: {body[:400]!r}")

    await together(*(work(session) for session in sessions))
    took, used = time.monotonic() - began, processor_seconds(gateway) - used
    for session in sessions:
        session.close()
    return [len(times) / took, *quantiles(times), 1000 * used / len(times)], whole


def _list_in(body: bytes) -> bytes:
    """The list itself, without what differs: the id, and how long it may be kept."""
    start = body.index(b'"tools":')
    return body[start : body.rindex(b"]", start)]


def _check(report: Report, body: bytes, size: int) -> None:
    """What the agent may see, all of it, and what is locked says so."""
    tools = json.loads(body)["result"]["tools"]
    own = {tool["name"]: tool for tool in tools if tool["name"].startswith(("read-", "write-"))}
    report.check(len(tools) == size + len(DEFINITIONS), f"{len(tools)} tools are listed of {size}")
    report.check(len(own) == size, f"{len(own)} tools of the server are listed of {size}")
    for name, tool in own.items():
        locked = str(tool["description"]).startswith("[LOCKED")
        report.check(locked == name.startswith("write-"), f"{name} is {'' if locked else 'not '}locked")
