"""A throwaway gateway with the fixture server behind it, over HTTP and as a program, with policy on."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.installation import ROOT, Installation, free_port, listening
from tests.nursery import command

OVER_HTTP, ON_STDIO = "over-http", "on-stdio"
# The same server, of which the gateway is told that it speaks one era only: clients of the other are bridged.
ONLY_OLDER, ONLY_NEWER = "only-older", "only-newer"
AGENT, LIMITED = "everything-agent", "limited-agent"
# The one tool that LIMITED may not use: of one scenario of the suite only.
DENIED_TOOL, ITS_SCENARIO = "test_image_content", "tools-call-image"
ACCESS = f"""\
kind: role
version: v1
metadata: {{name: all}}
spec:
  allow:
    - servers: ["*"]
      tools: ["*"]
      resources: ["*"]
      prompts: ["*"]
---
kind: role
version: v1
metadata: {{name: but-one}}
spec:
  deny:
    - servers: ["*"]
      tools: [{DENIED_TOOL}]
---
kind: agent
version: v1
metadata: {{name: {AGENT}}}
spec: {{owner: olga, team: demo}}
---
kind: agent
version: v1
metadata: {{name: {LIMITED}}}
spec: {{owner: olga, team: demo}}
---
kind: binding
version: v1
spec: {{role: all, as: standing, to: ["agent:{AGENT}", "agent:{LIMITED}"]}}
---
kind: binding
version: v1
spec: {{role: but-one, as: standing, to: ["agent:{LIMITED}"]}}
"""
SERVER = """\
---
kind: server
version: v1
metadata: {{name: {}}}
spec: {{access: every-team, options: {{accept_definitions: true}}}}
"""


@dataclass(frozen=True)
class Behind:
    """Where the gateway is, and who asks: tokens by agent."""

    host: str
    port: int
    tokens: dict[str, str]
    installation: Installation


@contextlib.contextmanager
def fixture_server() -> Iterator[str]:
    """The fixture over HTTP, in a process of its own. Yields its URL."""
    port = free_port()
    command = [sys.executable, "-m", "tests.conformance.server", "http", str(port)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        listening(port, process)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()  # it would wait for open streams
        process.wait(10)


@contextlib.contextmanager
def gateway(installation: Installation, url: str, names: set[str], shims: list[int]) -> Iterator[Behind]:
    """As an operator sets it up: describe the servers, trust their definitions, say who may use them; then start.

    The fixture is at `url`. `names` are those of the servers that there are; `shims` are the ports that the suite comes
    from: it sends them as its Origin.
    """
    installation.environment |= {
        "JITACCESS_EGRESS_ALLOW": "127.0.0.1/32",
        "JITACCESS_ALLOWED_ORIGINS": ",".join(f"http://127.0.0.1:{port}" for port in shims),
        "JITACCESS_LOG_LEVEL": "WARNING",
    }
    described, access = installation.var / "conformance.json", installation.var / "access.yaml"
    program, *arguments = command("tests.conformance.server", "stdio")
    servers = {
        OVER_HTTP: {"url": url},
        ON_STDIO: {"command": program, "args": arguments, "cwd": str(ROOT)},
        ONLY_OLDER: {"url": url, "era": "legacy"},
        ONLY_NEWER: {"url": url, "era": "modern"},
    }
    described.write_text(json.dumps({"mcpServers": {name: servers[name] for name in names}}))
    access.write_text(ACCESS + "".join(map(SERVER.format, sorted(names))))
    for verb in (
        ("servers", "import", str(described)),
        ("servers", "refresh"),
        ("apply", "-f", str(access), "--yes"),
        ("servers", "refresh"),  # from now on definitions are pinned as they come
    ):
        done = installation.cli(*verb, check=False)
        assert done.returncode == 0, f"{verb}: {done.stdout}{done.stderr}"
    process = installation.up("--no-demo")
    try:
        where = urlsplit(process.url)
        assert where.hostname
        assert where.port
        tokens = {agent: installation.token("--ttl", "60m", agent=agent) for agent in (AGENT, LIMITED)}
        yield Behind(where.hostname, where.port, tokens, installation)
    finally:
        installation.stop()
        (installation.var / "gateway.log").write_text(process.output)


def prepared_here(folder: Path) -> Installation:
    """A new installation on SQLite, with the demo's people."""
    from tests.installation import prepared

    return prepared(folder)
