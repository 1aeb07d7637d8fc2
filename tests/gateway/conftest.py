from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cast import Cast
from tests.clocks import Clock
from tests.gateway.harness import Client, Served, StdioServer, echo, serve


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """What the instrumented server received, a JSON line each."""
    path = tmp_path / "received"
    path.touch()
    return path


@pytest.fixture
def sent(record: Path) -> Callable[[], list[dict[str, Any]]]:
    """The calls that reached the server: the params of each."""

    def read() -> list[dict[str, Any]]:
        whole, _, _ = record.read_bytes().rpartition(b"\n")  # the last line may be half written
        messages = [json.loads(line) for line in whole.split(b"\n") if line]
        return [message["params"] for message in messages if message.get("method") == "tools/call"]

    return read


@pytest.fixture
def start(cast: Cast, clock: Clock, record: Path) -> Iterator[Callable[..., Served]]:
    """Start a gateway in a thread of its own; `servers` by slug (git, the instrumented one, unless told)."""
    running = []

    def starter(servers: dict[str, StdioServer] | None = None, **options: Any) -> Served:
        servers = servers or {"git": echo(record)}
        running.append(serve(servers, **options))
        return running[-1]

    yield starter
    for served in running:
        served.stop()


@pytest.fixture
def gateway(start: Callable[..., Served]) -> Served:
    return start()


@pytest.fixture
def agent(cast: Cast, gateway: Served) -> Iterator[Client]:
    """The demo agent, speaking 2026-07-28."""
    with gateway.client(cast) as client:
        yield client


@pytest.fixture
def legacy(cast: Cast, gateway: Served) -> Iterator[Client]:
    """The demo agent in a session of 2025-11-25."""
    with gateway.client(cast) as client:
        yield client.initialize()
