"""The peers: other people's proxies, from their registries, each in its fastest documented mode.

They are installed into a cache outside of the checkout, once; what came is read from there and told in the report.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import urllib.request
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from bench.targets import Failed, Target, free_port, last_line, node, running

CACHE = Path.home() / ".cache" / "jitaccess-bench"
INSTALL_SECONDS = 900
STDIO = [sys.executable, "-I", "-S", str(Path(__file__).with_name("echo_stdio.py"))]
# No settings of whoever runs this, and no secrets to lose.
_PLAIN = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent", "PYTHONWARNINGS": "ignore", "NO_COLOR": "1"}
_SECRET = "only-for-this-machine-and-this-hour-0123456789"


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a peer was installed, where it may write, where it has to listen and what it stands in front of."""

    installed: Path
    folder: Path
    port: int
    upstream: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Peer:
    """`packages`: the first is the one whose version is told. `ready` returns path and tool, when it is set up."""

    packages: tuple[str, ...]
    command: Callable[[Spot], list[str]]
    how: str
    npm: bool = False
    env: Callable[[Spot], dict[str, str]] = lambda _: {}
    ready: Callable[[Spot], tuple[str, str]] = lambda _: ("/mcp", "echo")
    era: str = "legacy"
    bridge: bool = field(default=False)


def _fastmcp(shared: bool) -> Callable[[Spot], list[str]]:
    program = Path(__file__).with_name("fastmcp_proxy.py")
    mode = "shared" if shared else "plain"
    return lambda spot: [_python(spot), str(program), spot.upstream, str(spot.port), mode]


def _python(spot: Spot) -> str:
    return str(spot.installed / "bin" / "python")


def _npm_program(spot: Spot, name: str) -> list[str]:
    return [node(), str(spot.installed / "node_modules" / ".bin" / name)]


def _litellm(spot: Spot) -> list[str]:
    config = spot.folder / "litellm.yaml"
    config.write_text(
        f"mcp_servers:\n  echo:\n    url: {spot.upstream}\n    transport: http\n    allow_all_keys: true\n"
    )
    program = str(spot.installed / "bin" / "litellm")
    return [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(spot.port), "--telemetry", "False"]


def _contextforge_env(spot: Spot) -> dict[str, str]:
    return {
        "DATABASE_URL": f"sqlite:///{spot.folder}/mcp.db", "AUTH_REQUIRED": "false", "MCP_REQUIRE_AUTH": "false",
        "ALLOW_UNAUTHENTICATED_ADMIN": "true", "JWT_SECRET_KEY": _SECRET, "AUTH_ENCRYPTION_SECRET": _SECRET + "x",
        "SSRF_ALLOW_LOCALHOST": "true", "SSRF_ALLOW_PRIVATE_NETWORKS": "true", "LOG_LEVEL": "ERROR",
        "MCPGATEWAY_UI_ENABLED": "false", "PLUGINS_ENABLED": "false", "RATE_LIMITING_ENABLED": "false",
    }  # fmt: skip


def _contextforge_ready(spot: Spot) -> tuple[str, str]:
    """Its REST API: the upstream is registered, and its tool put into a virtual server."""
    _post(f"{spot.url}/gateways", {"name": "echo", "url": spot.upstream, "transport": "STREAMABLEHTTP"})
    (tool,) = _get(f"{spot.url}/tools")
    made = _post(f"{spot.url}/servers", {"server": {"name": "bench", "associated_tools": [tool["id"]]}})
    return f"/servers/{made['id']}/mcp", tool["name"]


PEERS = {
    # Stateless with JSON answers: no session is kept and no event stream opened (its documentation, "HTTP deployment").
    # The documented default opens a connection to the upstream for each request …
    "fastmcp": Peer(("fastmcp", "uvloop", "httptools"), _fastmcp(False), "create_proxy(url), stateless, JSON answers"),
    # … and with a connected client all share one, which its documentation warns of for mixing contexts.
    "fastmcp-shared": Peer(
        ("fastmcp", "uvloop", "httptools"), _fastmcp(True), "create_proxy(connected client), stateless, JSON answers"
    ),
    # Without authentication, rate limits, pages, plugins, logs; stateless sessions and JSON answers are its defaults.
    # One process, because one core is what everybody has.
    "contextforge": Peer(
        ("mcp-contextforge-gateway",),
        lambda spot: [
            str(spot.installed / "bin/mcpgateway"),
            *f"--host 127.0.0.1 --port {spot.port} --no-access-log".split(),
        ],
        "SQLite, one worker, no authentication, no rate limits, no plugins, no access log",
        env=_contextforge_env,
        ready=_contextforge_ready,
    ),
    # Without a master key nothing about the caller is looked up. One worker, as above.
    "litellm": Peer(
        ("litellm[proxy]",),
        _litellm,
        "one worker, no key, no database",
        env=lambda _: {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true", "LITELLM_LOG": "ERROR"},
    ),
    # One child for all; stateless, so that no session has to be looked up.
    "mcp-proxy": Peer(
        ("mcp-proxy",),
        lambda spot: [
            str(spot.installed / "bin/mcp-proxy"),
            *f"--port {spot.port} --stateless --log-level ERROR --".split(),
            *STDIO,
        ],
        "to stdio, stateless",
        bridge=True,
    ),
    # Stateless it would start a child for each request; the store of events is only for clients that come back.
    "mcp-proxy-npm": Peer(
        ("mcp-proxy",),
        lambda spot: [
            *_npm_program(spot, "mcp-proxy"),
            *f"--host 127.0.0.1 --port {spot.port} --server stream --no-eventStore --".split(),
            *STDIO,
        ],
        "to stdio, sessions, no event store",
        npm=True,
        bridge=True,
    ),
    # Stateless it would start a child for each request; like this it has one for each session.
    "supergateway": Peer(
        ("supergateway",),
        lambda spot: [
            *_npm_program(spot, "supergateway"),
            *f"--outputTransport streamableHttp --stateful --port {spot.port} --logLevel none --stdio".split(),
            shlex.join(STDIO),
        ],
        "to stdio, a child for each session",
        npm=True,
        bridge=True,
    ),
}


def install(name: str, cache: Path) -> tuple[Path, str]:
    """Where it is and its version; from the registry if it is not there. Raises Failed."""
    peer = PEERS[name]
    folder = cache / ("npm-" + peer.packages[0] if peer.npm else peer.packages[0].partition("[")[0])
    done = folder / "installed.json"
    if not done.exists() or json.loads(done.read_text())["packages"] != list(peer.packages):
        folder.mkdir(parents=True, exist_ok=True)
        version = (_with_npm if peer.npm else _with_pip)(folder, peer.packages)
        done.write_text(json.dumps({"packages": peer.packages, "version": version}))
    return folder, str(json.loads(done.read_text())["version"])


def _with_pip(folder: Path, packages: tuple[str, ...]) -> str:
    _create(folder)
    python = str(folder / "bin" / "python")
    _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
    said = _run([python, "-m", "pip", "show", packages[0].partition("[")[0]])
    return next(line.partition(": ")[2] for line in said.splitlines() if line.startswith("Version: "))


def _create(folder: Path) -> None:
    try:
        venv.create(folder, with_pip=True, clear=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Failed(f"cannot be installed: {error}") from None


def _with_npm(folder: Path, packages: tuple[str, ...]) -> str:
    (folder / "package.json").write_text("{}")
    _run(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), *packages])
    about = json.loads((folder / "node_modules" / packages[0] / "package.json").read_text())
    return str(about["version"])


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, text=True, capture_output=True, check=False, timeout=INSTALL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"cannot be installed: {error}") from None
    if done.returncode:
        raise Failed(f"cannot be installed: {last_line(done.stderr)}")
    return done.stdout


@contextmanager
def started(name: str, installed: Path, version: str, folder: Path, upstream: str) -> Iterator[Target]:
    """It runs, knows of the upstream and waits for calls. Raises Failed."""
    peer = PEERS[name]
    spot = Spot(installed, folder / name, free_port(), upstream)
    spot.folder.mkdir()
    # Its own home: what it caches or remembers ends with the run.
    env = {**_PLAIN, "PATH": f"{installed}/bin:{_PLAIN['PATH']}", "HOME": str(spot.folder), **peer.env(spot)}
    with running(peer.command(spot), spot.folder / "log", env=env, port=spot.port) as process:
        try:
            path, tool = peer.ready(spot)
        except (OSError, ValueError, KeyError) as error:
            raise Failed(f"cannot be set up: {type(error).__name__}: {error}") from None
        kind = "npm" if peer.npm else "PyPI"
        yield Target(
            name, spot.url + path, psutil.Process(process.pid), tool=tool, era=peer.era, peer=True,
            version=f"{version} ({kind})", how=peer.how,
        )  # fmt: skip


def _post(url: str, value: Any) -> Any:
    headers = {"content-type": "application/json"}
    return _json(urllib.request.Request(url, json.dumps(value).encode(), headers))


def _get(url: str) -> Any:
    return _json(urllib.request.Request(url))


def _json(request: urllib.request.Request) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        return json.load(answer)
