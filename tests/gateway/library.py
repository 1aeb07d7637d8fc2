"""The library server before a gateway: over stdio and HTTP, in either era, for clients of either era."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from jitaccess.gateway.upstream.config import Era, HttpServer, ServerConfig, StdioServer
from jitaccess.policy.services import bind_role, save_role
from tests.cast import Cast
from tests.gateway.harness import Client, Served
from tests.nursery import command

ROLE = """\
kind: role
version: v1
metadata: {name: reader, description: Some notes and prompts}
spec:
  allow:
    - servers: [git]
      resources: ["memo://apples", "memo://boats*", "memo://more-*"]
    - servers: [git]
      prompts: [greet, "more-*"]
"""
PROGRAM = str(Path(__file__).with_name("library_server.py"))
# How servers are reached, and the era they speak: for tests that are about that.
each_way = pytest.mark.parametrize(
    "upstream", ["stdio modern", "stdio legacy", "http modern", "http legacy"], indirect=True
)
one_way = pytest.mark.parametrize("upstream", ["http modern"], indirect=True)


class Library:
    """The server, and what it was asked about notes and prompts."""

    def __init__(self, config: ServerConfig, record: Path) -> None:
        self.config, self._record = config, record

    def asked(self, *what: str) -> list[Any]:
        """The requests of these kinds, in order."""
        lines = [json.loads(line) for line in self._record.read_text().splitlines()]
        return [line for line in lines if not what or line[0] in what]


def over_stdio(era: Era, record: Path) -> ServerConfig:
    program, *arguments = command(PROGRAM, "stdio", str(record))
    return StdioServer("git", program, tuple(arguments), MappingProxyType({}), None, era)


@contextlib.contextmanager
def over_http(record: Path) -> Iterator[str]:
    """The URL of a server of both eras."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(command(PROGRAM, str(port), str(record)))
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """One over HTTP for all tests of a module: its URL, and where it writes what it was asked."""
    record = tmp_path_factory.mktemp("library") / "asked"
    with over_http(record) as url:
        yield url, record


@pytest.fixture(params=["http modern", "http legacy"])
def upstream(request: Any, settings: Any, tmp_path: Path) -> Library:
    settings.EGRESS_ALLOW = ["127.0.0.1"]
    carrier, era = request.param.split()
    if carrier == "stdio":
        (tmp_path / "asked").touch()
        return Library(over_stdio(era, tmp_path / "asked"), tmp_path / "asked")
    url, record = request.getfixturevalue("running")
    record.write_text("")
    return Library(HttpServer("git", url, {}, era=era), record)


@pytest.fixture
def served(cast: Cast, start: Callable[..., Served], upstream: Library) -> Served:
    """A gateway before it; the demo agent may read some notes and use some prompts."""
    bind_role(role=save_role(document=ROLE, operator=cast.operator), agent=cast.agent, operator=cast.operator)
    return start({"git": upstream.config})


@pytest.fixture
def both(cast: Cast, served: Served) -> Iterator[tuple[Client, Client]]:
    """The demo agent in both eras."""
    # On a slow machine a server that nobody has met yet may not say in time what it can do.
    served.run(served.gateway.offers.announced(served.gateway, "git", seconds=60))
    with served.client(cast) as modern, served.client(cast) as legacy:
        yield modern, legacy.initialize()
