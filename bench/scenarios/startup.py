"""How long a process takes from its command until it answers, and how much memory that takes: no first start."""

from __future__ import annotations

import statistics
import subprocess
import time
from argparse import Namespace
from collections.abc import Callable

import httpx2
import psutil  # type: ignore[import-untyped]

from bench.client import Answer, Session, drive
from bench.meter import peak
from bench.place import Place
from bench.report import ROOT, Report
from bench.world import READ, SMALL, World, build
from tests.installation import COMMAND, Process, free_port

OPTIONS = {
    "repeat": (5, "starts of each"),
    "commands": ("up,gateway,web", "what is started; on SQLite there is only `up`"),
}
HEAD = ("command", "what", "median", "least", "most")
WITHIN = 60.0
Found = dict[str, list[float]]


def run(place: Place, options: Namespace) -> Report:
    """One start after the other, each stopped again."""
    report = Report("startup", place.database)
    world = build(SMALL)
    commands = [one for one in options.commands.split(",") if one == "up" or place.installation.database_url]
    if "up" in commands and not (place.installation.var / "url").exists():  # which its first start leaves
        place.installation.up("--no-demo").stop()
    rows: list[list[object]] = []
    for command in commands:
        arguments = [command, "--no-demo"] if command == "up" else [command]
        serves = command != "web"
        found = _each(options.repeat, lambda: _start(place, arguments, world if serves else None))  # noqa: B023 - called here
        rows += [[f"jitaccess {command}", what, *_three(values)] for what, values in found.items()]
    found = _each(options.repeat, lambda: _help(place))
    rows += [["jitaccess --help", what, *_three(values)] for what, values in found.items()]
    report.compared(HEAD, rows)
    report.figures["starts"] = options.repeat
    return report


def _each(repeat: int, measure: Callable[[], dict[str, float]]) -> Found:
    found: Found = {}
    for _ in range(repeat):
        for what, value in measure().items():
            found.setdefault(what, []).append(value)
    return found


def _three(values: list[float]) -> list[str]:
    return [f"{value:.2f}" for value in (statistics.median(values), min(values), max(values))]


def _start(place: Place, arguments: list[str], world: World | None) -> dict[str, float]:
    port, began = free_port(), time.monotonic()
    process = Process([*arguments, "--port", str(port)], place.installation.env)
    place.installation.processes.append(process)
    url = f"http://127.0.0.1:{port}"
    found = {"ready, s": _ready(process, url) - began}
    if world:
        answer = drive(_call(url, world.tokens[0]))
        assert answer.allowed, answer.code
        found["first call answered, with the start of its server, s"] = answer.got - began
    found["most memory until then, MiB"] = peak(psutil.Process(process.popen.pid))
    found["stopped, s"] = process.stop()
    place.installation.processes.remove(process)
    return found


def _ready(process: Process, url: str) -> float:
    """The moment at which /readyz says so."""
    with httpx2.Client(base_url=url, timeout=10) as http:
        deadline = time.monotonic() + WITHIN
        while time.monotonic() < deadline and process.popen.poll() is None:
            try:
                if http.get("/readyz").status_code == 200:
                    return time.monotonic()
            except httpx2.TransportError:
                pass
            time.sleep(0.005)
    raise SystemExit(f"it was not ready within {WITHIN:.0f} seconds:\n{process.output}")


async def _call(url: str, token: str) -> Answer:
    session = Session(url, token)
    try:
        return await session.call(READ)
    finally:
        session.close()


def _help(place: Place) -> dict[str, float]:
    env = place.installation.env
    began = time.monotonic()
    said = subprocess.run([COMMAND, "--help"], env=env, cwd=ROOT, text=True, capture_output=True, check=True)
    took = time.monotonic() - began
    assert "usage: jitaccess" in said.stdout
    return {"printed, s": took}
