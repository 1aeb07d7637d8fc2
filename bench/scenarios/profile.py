"""Where the time of a call goes: the steps of a call, and what the threads of the gateway do meanwhile."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import psutil  # type: ignore[import-untyped]

from bench import cores, targets
from bench.client import ECHO
from bench.meter import database_server
from bench.place import Place
from bench.report import Report
from bench.targets import Loader, Target
from bench.world import SMALL, World, add_echo, build
from tests.installation import Process

OPTIONS = {
    "seconds": (6.0, "of each measurement"),
    "sessions": ("1,32", "agents at once, each with one connection"),
}
TOP = 20
KINDS = {"MainThread": "event loop", "admission": "batch writer", "gateway": "other database threads"}


@dataclass(frozen=True, slots=True)
class _Phase:
    """Calls of `sessions` agents between two moments, and the processor seconds that each thread (by its system's id)
    took for them.
    """

    sessions: int
    seconds: tuple[float, float]
    latencies: list[float]
    refused: int
    threads: dict[int, float]


def run(place: Place, options: Namespace) -> Report:
    """One process, watched from inside; few calls at once, then many. As in `gateway`, it has a core of its own."""
    report = Report("profile", place.database)
    counts = [int(count) for count in options.sessions.split(",")]
    world = build(replace(SMALL, agents=max(SMALL.agents, *counts)))
    add_echo()
    folder = place.installation.var
    out = folder / "profile.json"
    with ExitStack() as stack:
        stack.enter_context(cores.on_core(cores.LOAD))
        place.add_http(ECHO, stack.enter_context(targets.echo(folder, "echo", cores.LOAD)).url)
        database = database_server()
        cores.pin(cores.family(database) if database else [], cores.LOAD)
        with cores.on_core(cores.TARGET):
            gateway = _start(place, str(out))
        load = Loader()
        stack.callback(load.close)
        phases = [_measure(gateway, load, world, count, options.seconds) for count in counts]
        gateway.stop()
    told = json.loads(out.read_text())
    report.check(not any(phase.refused for phase in phases), "a call was refused")
    _tell_steps(report, told["steps"], phases)
    _tell_threads(report, told["threads"], phases)
    _tell_samples(report, told["samples"], phases)
    report.figures |= {"calls": sum(len(phase.latencies) for phase in phases), "samples": len(told["samples"])}
    return report


def _start(place: Place, out: str) -> Process:
    """What `Place.start` starts, under the sampler."""
    role = ["gateway"] if place.installation.database_url else ["up", "--no-demo"]
    program = (sys.executable, "-m", "bench.sampler", out)
    env = place.installation.env | {"JITACCESS_LOG_LEVEL": "warning"}  # no line for each request, as in `gateway`
    process = Process([*role, "--port", "0"], env, program=program)
    place.installation.processes.append(process)
    return process.wait_ready()


def _measure(gateway: Process, load: Loader, world: World, count: int, seconds: float) -> _Phase:
    url = f"{gateway.url}/mcp/{ECHO}"
    process = psutil.Process(gateway.popen.pid)
    target = Target(url, url, process, tokens=world.tokens[:count])
    load.run(target.job(count, min(0.5, seconds)))  # the first calls start things
    before = {one.id: one.user_time + one.system_time for one in process.threads()}
    told = load.run(target.job(count, seconds))
    after = {one.id: one.user_time + one.system_time for one in process.threads()}
    threads = {thread: used - before.get(thread, 0.0) for thread, used in after.items()}
    refused = told["answers"] - len(told["latencies"])
    return _Phase(count, (told["began"], told["began"] + told["took"]), told["latencies"], refused, threads)


def _tell_steps(report: Report, steps: list[tuple[str, float, float, int]], phases: list[_Phase]) -> None:
    """Means, because only they add up: to the latency that the clients saw, but for the endings."""
    rows: dict[str, list[object]] = defaultdict(list)
    for phase in phases:
        start, end = phase.seconds
        took: dict[str, float] = defaultdict(float)
        calls: Counter[str] = Counter()
        batches: Counter[str] = Counter()
        for label, began, ended, size in steps:
            if start <= began and ended <= end:
                # A call waits for all of its batch.
                took[label] += (ended - began) * (size if label == "batch" else 1)
                calls[label] += size
                batches[label] += 1
        mean = defaultdict(float, {label: 1000 * took[label] / max(1, calls[label]) for label in calls})
        whole = 1000 * sum(phase.latencies) / len(phase.latencies)
        for name, value in {
            "client and server: HTTP, event loop": whole - mean["request"],
            "read, identify, decide where to; answer": mean["request"] - mean["admission"] - mean["forward"],
            "wait for the batch": mean["admission"] - mean["batch"],
            "the batch: decide, record, commit": mean["batch"],
            "forward: the upstream": mean["forward"],
            "**latency of a call**": whole,
            "endings, a call's share, with the batch of others or alone": mean["endings"],
        }.items():
            rows[name].append(f"{value:.3f}")
        rows["calls in a batch"].append(f"{calls['batch'] / max(1, batches['batch']):.1f}")
        report.figures[f"request_ms_{phase.sessions}"] = mean["request"]
    head = ("step, ms a call", *(f"at {phase.sessions}" for phase in phases))
    report.table(head, [[name, *values] for name, values in rows.items()])


def _tell_threads(report: Report, names: dict[str, str], phases: list[_Phase]) -> None:
    rows = []
    for kind in [*KINDS.values(), "other threads"]:
        values = []
        for phase in phases:
            used = sum(
                seconds for thread, seconds in phase.threads.items() if _kind(names.get(str(thread), "")) == kind
            )
            values.append(f"{1000 * used / len(phase.latencies):.3f}")
        rows.append([kind, *values])
    report.table(("CPU, ms a call", *(f"at {phase.sessions}" for phase in phases)), rows)


def _kind(name: str) -> str:
    return next((kind for start, kind in KINDS.items() if name.startswith(start)), "other threads")


def _tell_samples(report: Report, samples: list[tuple[float, str, str]], phases: list[_Phase]) -> None:
    """Shares of the samples in which a thread of the gateway was at work or waited for the database."""
    parts, places = [], []
    for phase in phases:
        start, end = phase.seconds
        inside = [(part, where) for at, part, where in samples if start <= at <= end]
        parts.append(_shares(part for part, _ in inside))
        places.append(_shares(inside))
    ranked = sorted({one for shares in parts for one in shares}, key=lambda one: -parts[-1].get(one, 0.0))
    counts = [f"at {phase.sessions}" for phase in phases]
    report.table(("part", *counts), [[one, *(f"{shares.get(one, 0.0):.1%}" for shares in parts)] for one in ranked])
    top = sorted(places[-1], key=lambda one: -places[-1][one])[:TOP]
    rows = [
        [part, f"`{where}`", *(f"{shares.get((part, where), 0.0):.1%}" for shares in places)] for part, where in top
    ]
    report.table(("part", "innermost function of ours", *counts), rows)


def _shares(found: Any) -> dict[Any, float]:
    counted = Counter(found)
    total = max(1, counted.total())
    return {one: count / total for one, count in counted.items()}
