"""Calls a second and what they cost, side by side: nothing in between, pass-throughs, the gateway, and its peers."""

from __future__ import annotations

import statistics
import sys
import time
from argparse import Namespace
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil  # type: ignore[import-untyped]

from bench import cores, peers, targets
from bench.commits import commit_seconds
from bench.gateways import gateway, twin
from bench.meter import database_server, processor_seconds
from bench.place import Place
from bench.report import Report, quantiles
from bench.targets import Failed, Loader, Target
from bench.verdicts import BARE, NGINX, OURS, TWIN, judge
from bench.world import LARGE, SMALL, add_echo, build

OPTIONS = {
    "seconds": (2.0, "of each measurement"),
    "rounds": (3, "of measurements, all in turn"),
    "sessions": ("1,8,32,128", "connections at once, each with an agent of its own and one call at a time"),
    "peers": ("nginx,passthrough,all", "beside the gateway: these names, `all`, or none"),
    "peer-seconds": (3.0, "of the one measurement of each peer"),
    "peers-cache": (str(peers.CACHE), "folder that peers are installed into"),
    "twin": (10, "agents of a second gateway, for comparison; 0: none"),
    "small": (0, "1: a small policy"),
}
WARM_UP = 0.4
# For what stood still and is awake again: all its chores are due at once, which otherwise come one after the other.
SETTLE = 1.5
COMES_UP = 30.0  # how long what has been called may take to do what it left for later
HEAD = (
    "sessions", "what", "calls/s", "p50 ms", "p99 ms", "max ms", "CPU µs/call", "database CPU µs/call", "memory MiB",
    "of bare pass-through", "of nginx",
)  # fmt: skip


@dataclass(slots=True)
class Measured:
    """One target at one number of sessions, over its rounds."""

    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    answers: int = 0
    used: float = 0.0
    used_by_database: float = 0.0
    used_beside: float = 0.0
    memory: float = 0.0
    left: int = 0

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    def per_call(self, seconds: float) -> float:
        """Microseconds."""
        return 1e6 * seconds / max(1, self.answers)


class Run:
    """All targets, one after the other, again and again."""

    def __init__(self, report: Report, load: Loader, database: psutil.Process | None) -> None:
        self.report, self.load, self.database = report, load, database
        self.found: dict[tuple[str, int], Measured] = {}
        self.lost: Counter[str] = Counter()
        self.out: dict[str, str] = {}  # who cannot be measured, and why

    def measure(self, target: Target, count: int, seconds: float, *, warm_up: float = 0.0) -> None:
        """Let only this one run, call it and note what that took. Who fails is left out from then on."""
        if target.name in self.out:
            return
        print(f"  {count:>4} sessions: {target.name}", file=sys.stderr, flush=True)
        awake = [*([target.process] if target.freezes else []), *target.beside]
        cores.thaw(awake)
        if target.beside:
            time.sleep(SETTLE)
        try:
            if warm_up:
                self.load.run(target.job(count, warm_up))
            before = self._used(target)
            told = self.load.run(target.job(count, seconds))
            after = self._used(target)
            memory, left = target.memory, target.left()
        except (Failed, psutil.NoSuchProcess) as error:
            self._drop(target, f"at {count} sessions: {error}")
            return
        finally:
            ends = time.monotonic() + COMES_UP
            while target.left() and time.monotonic() < ends:
                time.sleep(0.1)
            cores.freeze(awake)
        self.lost[target.name] += told["lost"]
        if (told["lost"] and not target.peer) or set(told["codes"]) - {"allowed"}:
            said = f"{told['codes']}, {told['lost']} lost connections; {str(told['wrong'])[:400]}"
            self._drop(target, f"at {count} sessions: {said}")
            return
        one = self.found.setdefault((target.name, count), Measured())
        # Of who is slow, few answers came within the time; those after it were made at the same speed.
        one.rates.append(max(told["inside"] / told["seconds"], told["answers"] / told["took"]))
        one.latencies += told["latencies"]
        one.answers += told["answers"]
        one.used += after[0] - before[0]
        one.used_by_database += after[1] - before[1]
        one.used_beside += after[2] - before[2]
        one.memory, one.left = max(one.memory, memory), max(one.left, left)

    def _drop(self, target: Target, why: str) -> None:
        """Every answer must be the right one. Of the gateway anything else is a fault, not only a pity."""
        self.report.check(target.name not in {OURS, TWIN}, f"{target.name} {why}")
        self.out[target.name] = why

    def _used(self, target: Target) -> tuple[float, float, float]:
        beside = sum(processor_seconds(one, family=True) for one in target.beside)
        database = processor_seconds(self.database, family=True) if self.database else 0.0
        return processor_seconds(target.process, family=True), database, beside


def run(place: Place, options: Namespace) -> Report:
    """Install, build, start; then measure all in turn, so that what else the machine does hits each."""
    report = Report("gateway", place.database)
    wanted = _wanted(options.peers)
    counts = [int(count) for count in options.sessions.split(",")]
    with TemporaryDirectory(prefix="jitaccess-bench-") as name, ExitStack() as stack:
        stack.enter_context(cores.on_core(cores.LOAD))
        folder = Path(name)
        every = _start(stack, place, folder, wanted, options)
        database = database_server()
        cores.pin(cores.family(database) if database else [], cores.LOAD)
        commits = commit_seconds(place.installation)
        load = Loader()
        stack.callback(load.close)
        # What is frozen cannot be told to stop.
        stack.callback(cores.thaw, [one for target in every.targets for one in (target.process, *target.beside)])
        measured = Run(report, load, database)
        measured.out |= every.out
        for target in every.targets:
            cores.freeze([*([target.process] if target.freezes else []), *target.beside])
        for count in counts:
            for turn in range(options.rounds):
                for target in (one for one in every.targets if not one.peer):
                    measured.measure(target, count, options.seconds, warm_up=0.0 if turn else WARM_UP)
            for target in (one for one in every.targets if one.peer):
                measured.measure(target, count, options.peer_seconds, warm_up=WARM_UP)
        _check_ledger(report, place, measured, counts)
    _tell(report, every.targets, measured, counts)
    judge(report, measured.found, counts, commits)
    return report


@dataclass(slots=True)
class _Started:
    targets: list[Target] = field(default_factory=list)
    out: dict[str, str] = field(default_factory=dict)


def _wanted(names: str) -> list[str]:
    """Raises SystemExit for a name that nobody has."""
    known = {"nginx", "passthrough", *peers.PEERS}
    listed = [name for name in names.split(",") if name not in {"none", ""}]
    found = [one for name in listed for one in (list(peers.PEERS) if name == "all" else [name])]
    if strange := set(found) - known:
        raise SystemExit(f"no such peers: {', '.join(sorted(strange))}; there are {', '.join(sorted(known))}")
    return found


def _start(stack: ExitStack, place: Place, folder: Path, wanted: list[str], options: Namespace) -> _Started:
    """Peers first, as long as nothing else runs: to install them takes minutes."""
    every, installed = _Started(), {}
    for name in (name for name in wanted if name in peers.PEERS):
        try:
            installed[name] = peers.install(name, Path(options.peers_cache))
        except Failed as error:
            every.out[name] = str(error)
    upstream = stack.enter_context(targets.echo(folder, "upstream", cores.LOAD)).url
    every.targets.append(stack.enter_context(targets.echo(folder, "direct", cores.TARGET)))
    for name, start in (("nginx", targets.nginx), ("passthrough", targets.passthrough)):
        if name in wanted:
            try:
                every.targets.append(stack.enter_context(start(folder, upstream)))
            except Failed as error:
                every.out[name] = str(error)
    world = build(SMALL if options.small else LARGE)
    add_echo()
    most = max(map(int, options.sessions.split(",")))
    every.targets.append(gateway(OURS, place.installation, upstream, world.tokens[:most], len(world.agents)))
    if options.twin:
        every.targets.append(stack.enter_context(twin(TWIN, place.installation, upstream, options.twin)))
    for name, (where, version) in installed.items():
        try:
            every.targets.append(stack.enter_context(peers.started(name, where, version, folder, upstream)))
        except Failed as error:
            every.out[name] = str(error)
    return every


def _check_ledger(report: Report, place: Place, run: Run, counts: list[int]) -> None:
    """Who was answered was authorized before, on record."""
    answered = sum(run.found[OURS, count].answers for count in counts if (OURS, count) in run.found)
    (row,) = place.installation.query("SELECT count(*) AS n FROM jit_audit_entry WHERE event = 'call.authorized'")
    report.check(row["n"] >= answered, f"{answered} calls were answered, {row['n']} are in the ledger")
    report.figures["calls"] = answered


def _tell(report: Report, every: list[Target], run: Run, counts: list[int]) -> None:
    rows = []
    for count in counts:
        bare, nginx = (run.found.get((name, count)) for name in (BARE, NGINX))
        for target in every:
            one = run.found.get((target.name, count))
            if one is not None:
                ours = target.name in {OURS, TWIN}
                p50, _, p99, most = quantiles(one.latencies)
                rows.append([
                    count, target.name, round(one.rate), round(p50, 2), round(p99, 2), round(most, 1),
                    round(one.per_call(one.used)),
                    round(one.per_call(one.used_by_database)) if ours and run.database else "",
                    round(one.memory),
                    *(f"{one.rate / other.rate:.3g}" if other else "" for other in (bare, nginx)),
                ])  # fmt: skip
                report.figures[f"{target.name} at {count}"] = {
                    "calls_per_second": one.rate, "rounds": one.rates, "p50_ms": p50, "p99_ms": p99,
                    "cpu_us": one.per_call(one.used), "database_us": one.per_call(one.used_by_database),
                    "beside_us": one.per_call(one.used_beside), "memory_mib": one.memory,
                }  # fmt: skip
    report.table(HEAD, rows)
    later = [
        [count, name, f"{2 * one.answers // len(one.rates):,}", f"{one.left:,}"]
        for (name, count), one in sorted(run.found.items(), key=lambda found: found[0][1])
        if name in {OURS, TWIN} and run.database
    ]
    if later:
        report.table(("sessions", "what", "entries of a run", "left to the sequencer at its end, at most"), later)
    lost = {name: f"; it closed {count} connections with a call in them" for name, count in run.lost.items() if count}
    told = [[target.name, target.version, target.how + lost.get(target.name, "")] for target in every]
    report.table(("what", "version", "how it runs"), told)
    if run.out:
        report.table(("not measured", "because"), [[name, why.replace("|", "/")] for name, why in run.out.items()])
    where = f"core {cores.TARGET} is the measured process's alone; core {cores.LOAD} has load, upstream and database"
    report.table(("where", ""), [["cores", where if cores.TARGET != cores.LOAD else "one for all"]])
