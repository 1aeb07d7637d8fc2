"""Gateways as targets: a real installation's processes, the gateway on the measured core, the rest elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]

from bench import cores
from bench.client import ECHO
from bench.place import LIMITS, new_database
from bench.report import ROOT
from bench.targets import Target
from bench.world import SMALL, Size, add_echo, build
from tests import databases

if TYPE_CHECKING:
    from tests.installation import Installation

# Models can only be imported once Django is set up.
_TWIN = "import django; django.setup(); from bench.gateways import build_twin; build_twin({})"


def gateway(name: str, installation: Installation, upstream: str, tokens: Sequence[str], agents: int) -> Target:
    """`jitaccess gateway` and, beside it, `jitaccess web` with the sequencer; on SQLite `jitaccess up` is both."""
    entry = {"url": upstream, "era": "modern", "shared": True}
    (installation.var / "servers.json").write_text(json.dumps({"mcpServers": {ECHO: entry}}))
    # No line in the log for each request, as with all the others; the ledger has its entries.
    installation.environment |= {**LIMITS, "JITACCESS_EGRESS_ALLOW": "127.0.0.1", "JITACCESS_LOG_LEVEL": "warning"}
    how, beside = f"{agents:,} agents, rate limits above the load, no access log; ", []
    if installation.database_url:
        with cores.on_core(cores.LOAD):
            web = psutil.Process(installation.start("web").popen.pid)
        cores.last_in_turn(web)
        beside.append(web)
        how += "`jitaccess gateway`; `jitaccess web` with the sequencer on the load's core, last in turn"
    else:
        how += "`jitaccess up`, sequencer and worker in it"
    with cores.on_core(cores.TARGET):
        started = installation.start("gateway") if installation.database_url else installation.up("--no-demo")
    process = psutil.Process(started.popen.pid)
    url = f"{started.url}/mcp/{ECHO}"
    return Target(
        name, url, process, tokens=tokens, how=how, beside=beside, freezes=False, left=partial(_left, installation)
    )


def _left(installation: Installation) -> int:
    """Entries that have no place in the order of the ledger yet."""
    (row,) = installation.query(
        "SELECT (SELECT coalesce(sum(n), 0) FROM jit_audit_bundle) + (SELECT count(*) FROM jit_audit_unsequenced) AS n"
    )
    return int(row["n"])


@contextmanager
def twin(name: str, original: Installation, upstream: str, agents: int) -> Iterator[Target]:
    """Another installation on the same database server, with a small policy of so many agents."""
    from tests.installation import Installation

    with TemporaryDirectory(prefix="jitaccess-twin-") as var:
        url = new_database(os.environ[databases.URL]) if original.database_url else ""
        installation = Installation(Path(var), url)
        installation.cli("migrate")
        command = [sys.executable, "-c", _TWIN.format(agents)]
        env = {**os.environ, **installation.env, "DJANGO_SETTINGS_MODULE": "jitaccess.settings"}
        made = subprocess.run(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, check=True).stdout
        try:
            yield gateway(name, installation, upstream, json.loads(made), agents)
        finally:
            installation.stop()


def build_twin(agents: int) -> None:
    """In a process of its own, for settings are for life; prints the tokens."""
    world = build(Size(agents=agents, servers=SMALL.servers, tools=SMALL.tools))
    add_echo()
    print(json.dumps(world.tokens))
