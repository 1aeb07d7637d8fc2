"""python -m bench SCENARIO [options]: run one (or `all`, or `list` them) and print what came of it as Markdown.

Exit code 0 when every guarantee and every goal was met, 1 otherwise.
"""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.place import choose, describe_database, place
from bench.report import machine, publish, side_by_side

# The databases each can run on: two gateway processes need PostgreSQL.
BOTH, POSTGRESQL = ("sqlite", "postgresql"), ("postgresql",)
SCENARIOS = {
    "gateway": (BOTH, "calls a second and CPU beside nothing, pass-throughs, nginx and the installable peers"),
    "capacity": (BOTH, "calls a second and latency, against the same upstream without the gateway"),
    "lists": (BOTH, "tools/list of 10, 100 and 1,000 tools"),
    "latency": (BOTH, "from an approval to the first call, from a revoke to the first refusal, and until clients hear"),
    "streams": (BOTH, "10,000 open event streams in one process: memory, news, calls beside them"),
    "startup": (BOTH, "from the command to the first answer"),
    "admission": (BOTH, "what admitting and ending a call on record costs, without HTTP"),
    "profile": (BOTH, "where the time of a call goes"),
    "functions": (BOTH, "how many functions a call enters, whatever the load of the machine"),
    "policy-writes": (BOTH, "50 policy writes a second under load: who waits, who is refused, how soon a revoke binds"),
    "revoke": (POSTGRESQL, "calls sent after the commit of a revoke, to two gateways"),
    "expiry": (BOTH, "calls around the end of their grant"),
    "uses": (BOTH, "grants for a number of calls, all used at once"),
    "workflow-scale": (BOTH, "lists of a million requests, and a sweep of 100,000 grants that are over"),
    "pages": (BOTH, "server time and queries of every page of people at a million requests and ten million entries"),
}
TABLE = dict[str, tuple[Any, str]]


def main() -> int:
    """Parse, choose the installation, run, print."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started has to be stopped
    name, rest = (sys.argv[1] if len(sys.argv) > 1 else "list"), sys.argv[2:]
    if name not in {*SCENARIOS, "all"}:
        print(__doc__, *(f"  {one:<14} {what}" for one, (_, what) in SCENARIOS.items()), sep="\n")
        return 0 if name == "list" else 2
    if name == "all":
        return max(_again([one, *rest]) for one in SCENARIOS)
    databases = SCENARIOS[name][0]
    chosen = argparse.ArgumentParser(add_help=False)
    chosen.add_argument("--database", choices=databases)
    known, others = chosen.parse_known_args(rest)
    if known.database is None:
        return _on_each(name, databases, others)
    choose(known.database)
    return _run(name, others)


def _on_each(name: str, databases: tuple[str, ...], options: list[str]) -> int:
    """One database after the other; in the end what can be compared in one table, and --json with both."""
    wanted = argparse.ArgumentParser(add_help=False)
    wanted.add_argument("--json", type=Path)
    known, others = wanted.parse_known_args(options)
    codes, told = [], {}
    with TemporaryDirectory() as folder:
        for database in databases:
            path = Path(folder, database)
            codes.append(_again([name, "--database", database, "--json", str(path), *others]))
            if path.exists():
                told[database] = json.loads(path.read_text())
    print(side_by_side(name, {one["database"]: one["figures"] for one in told.values()}), end="", flush=True)
    if known.json:
        known.json.write_text(json.dumps(told))
    return max(codes)


def _again(arguments: list[str]) -> int:
    """A process for each database: Django's settings are for life."""
    process = subprocess.Popen([sys.executable, "-m", "bench", *arguments])
    try:
        return process.wait()
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):  # of that the terminal tells it too
            process.terminate()
        process.wait(60)  # it has an installation to stop
        raise


def _run(name: str, arguments: list[str]) -> int:
    scenario = importlib.import_module(f"bench.scenarios.{name.replace('-', '_')}")
    options: TABLE = scenario.OPTIONS
    parser = argparse.ArgumentParser(prog=f"python -m bench {name}", description=scenario.__doc__)
    for option, (default, what) in options.items():
        parser.add_argument(f"--{option}", type=type(default), default=default, help=f"{what} (default {default})")
    parser.add_argument("--json", type=Path, help="write figures and violations to this file too")
    parser.add_argument("--into", type=Path, help="a page with a place for it, such as docs/performance.md")
    chosen = parser.parse_args(arguments)
    with place() as here:
        report = scenario.run(here, chosen)
        about = machine(describe_database())
        print(report.markdown(), about, sep="\n\n", flush=True)
    if chosen.into:
        publish(chosen.into, report, about)
    if chosen.json:
        missed = {"violations": report.violations, "goals_missed": report.goals_missed}
        chosen.json.write_text(json.dumps({"database": report.database, "figures": report.figures} | missed))
    return 1 if report.violations or report.goals_missed else 0


if __name__ == "__main__":
    sys.exit(main())
