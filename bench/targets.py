"""What is measured side by side: each a command on the core of its own, and how it is called."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]

from bench.client import ECHO
from bench.cores import LOAD, TARGET, family, on_core
from bench.report import ROOT
from tests.nginx import nginx as find_nginx

PATIENCE = 120.0
# One worker, as for the others; nothing is written down, and connections to the upstream are kept.
_NGINX = """\
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log crit; {user}
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream echo {{ server {upstream}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{ proxy_pass http://echo; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""


class Failed(Exception):
    """It could not be installed, started or called; why, in a line."""


@dataclass(slots=True)
class Target:
    """A URL to call, and the process (with all that it starts) whose processor time and memory count.

    `beside` are processes that belong to it and are not measured: they run on the other core, when it is its turn.
    `left` counts what they have still to do of what was called before.
    """

    name: str
    url: str
    process: psutil.Process
    tool: str = ECHO
    era: str = "modern"
    tokens: Sequence[str] = ()
    version: str = ""
    how: str = ""
    peer: bool = False
    beside: list[psutil.Process] = field(default_factory=list)
    freezes: bool = True
    left: Callable[[], int] = lambda: 0

    def job(self, sessions: int, seconds: float, *, rate: float = 0.0) -> dict[str, object]:
        """As bench.load is told."""
        return {
            "name": self.name, "url": self.url, "tool": self.tool, "era": self.era, "tokens": list(self.tokens),
            "sessions": sessions, "seconds": seconds, "rate": rate,
        }  # fmt: skip

    @property
    def memory(self) -> float:
        """MiB that all of its processes hold."""
        held = 0.0
        for one in family(self.process):
            with suppress(psutil.NoSuchProcess):
                held += one.memory_info().rss
        return held / 2**20


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str], log: Path, *, core: int = TARGET, env: Mapping[str, str] | None = None, port: int = 0
) -> Iterator[subprocess.Popen[str]]:
    """A command on `core` until the block ends, with everything that it started. With `port`, when it listens there."""
    with on_core(core), log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, text=True
        )
    try:
        if port:
            wait_for(port, process, log)
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """It and all that it started."""
    every = family(psutil.Process(process.pid)) if process.poll() is None else []
    for one in every:
        with suppress(psutil.NoSuchProcess):
            one.resume()
            one.terminate()
    _, left = psutil.wait_procs(every, timeout=10)
    for one in left:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait(10)


def wait_for(port: int, process: subprocess.Popen[str], log: Path) -> None:
    """Until somebody listens. Raises Failed with the last line that it said."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    what = "ended" if process.poll() is not None else f"does not listen after {PATIENCE:.0f} s"
    raise Failed(f"{what}: {last_line(log.read_text(errors='replace'))}")


def last_line(text: str) -> str:
    """The last one that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")[-300:]


@contextmanager
def echo(folder: Path, name: str, core: int, *more: str) -> Iterator[Target]:
    """The upstream: on the load's core as what stands behind all, on the target's as what is measured itself."""
    port = free_port()
    command = [sys.executable, "-m", "bench.echo_http", "--port", str(port), *more]
    with running(command, folder / f"{name}.log", core=core, port=port) as process:
        url = f"http://127.0.0.1:{port}/mcp"
        yield Target("direct", url, psutil.Process(process.pid), how="the upstream itself, nothing in between")


@contextmanager
def nginx(folder: Path, upstream: str) -> Iterator[Target]:
    """Raises Failed where there is none."""
    program = find_nginx()
    if program is None:
        raise Failed("there is no nginx on this machine")
    port, config = free_port(), folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(_NGINX.format(folder=folder, user=user, upstream=urlsplit(upstream).netloc, port=port))
    command = [program, "-c", str(config), "-e", str(folder / "nginx.log")]
    said = subprocess.run([program, "-v"], text=True, capture_output=True, check=False).stderr
    with running(command, folder / "nginx.out", port=port) as process:
        url = f"http://127.0.0.1:{port}/mcp"
        how = "one worker, no log, 512 connections kept to the upstream"
        yield Target("nginx", url, psutil.Process(process.pid), version=said.rpartition("/")[2].strip(), how=how)


@contextmanager
def passthrough(folder: Path, upstream: str) -> Iterator[Target]:
    port = free_port()
    command = [sys.executable, "-m", "bench.passthrough_http", upstream, "--port", str(port)]
    with running(command, folder / "passthrough.log", port=port) as process:
        url = f"http://127.0.0.1:{port}/mcp"
        how = "raw ASGI on the gateway's server and HTTP client; decides and records nothing"
        yield Target("bare pass-through", url, psutil.Process(process.pid), how=how)


class Loader:
    """bench.load in a process, on the load's core or anywhere; in another, should it end."""

    def __init__(self, number: int = 0, *, pinned: bool = True) -> None:
        self._number, self._pinned = number, pinned
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        command, pipe = [sys.executable, "-m", "bench.load", str(self._number)], subprocess.PIPE
        with on_core(LOAD) if self._pinned else nullcontext():
            process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        return process

    def begin(self, job: dict[str, object]) -> None:
        if self._process.poll() is not None:
            self._process = self._start()
        assert self._process.stdin
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """What came of the job. Raises Failed."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(10)
            raise Failed("the load ended")
        told = json.loads(line)
        if "failed" in told:
            raise Failed(str(told["failed"]))
        return dict(told)

    def run(self, job: dict[str, object]) -> dict[str, Any]:
        self.begin(job)
        return self.result()

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)


def node() -> str:
    """Raises Failed."""
    found = shutil.which("node")
    if found is None:
        raise Failed("there is no Node.js on this machine")
    return found
